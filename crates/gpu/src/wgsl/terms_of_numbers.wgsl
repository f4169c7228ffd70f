        // Four numbers a lane, four times at once; behind the row's end x is zero.
        let n_fours = select(0u, (p.row_len + 3u) / 4u, is_mine);
        for (var i = lane; i < n_fours; i += 4u * GROUP) {
#for u 4
            let i$u = i + $uu * GROUP;
#for t NT
            let x$t_$u = x4(x$t, i$u / 8u, i$u % 8u);
#end
#for r NR
            let v$r_$u = four(row$r, 4u * min(i$u, n_fours - 1u));
#end
#end
#for u 4
#for r NR
#for t NT
            sum$r_$t += dot(v$r_$u, x$t_$u);
#end
#end
#end
        }
