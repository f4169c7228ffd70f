#for t NT
        {
            let gate = group_sum(sum0_$t, lid);
            let up = group_sum(sum1_$t, lid);
            if is_first && row < p.second_at {
                block[$tu * 32u + row_of_tile] = gated(row, expert, gate, up);
            }
        }
#end
