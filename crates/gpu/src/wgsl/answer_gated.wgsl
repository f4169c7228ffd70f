#for t NT
        {
            let gate = group_sum(sum0_$t, lid);
            let up = group_sum(sum1_$t, lid);
            if is_first {
                store_gated(row, expert, token + $tu, gate, up);
            }
        }
#end
