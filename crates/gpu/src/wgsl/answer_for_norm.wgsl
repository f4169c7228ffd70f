#for t NT
        {
            let sum = group_sum(sum0_$t, lid);
            if is_first {
                block[$tu * 32u + row_of_tile] = store(row, expert, token + $tu, sum);
            }
        }
#end
