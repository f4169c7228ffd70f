#for r NR
#for t NT
    {
        let sum = group_sum(sum$r_$t, lid);
        if is_first {
            store(row + $ru, expert, token + $tu, sum);
        }
    }
#end
#end
