#for t NT
        {
            let sum = group_sum(sum0_$t, lid);
            if is_first {
                store(row, expert, token + $tu, sum);
            }
        }
#end
