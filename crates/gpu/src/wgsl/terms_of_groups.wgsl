        // A group of elements a lane.
        let n_groups = select(0u, p.row_len / 32u, is_mine);
        for (var g = lane; g < n_groups; g += GROUP) {
            let at = x_at(g);
#for t NT
#for k 8
            let x$t_$k = x[x$t + at.x + $ku * at.y];
#end
#end
#for r NR
            {
                let e = unpack(row$r, g);
#for t NT
                sum$r_$t += dot(e.v0, x$t_0) + dot(e.v1, x$t_1) + dot(e.v2, x$t_2) + dot(e.v3, x$t_3)
                    + dot(e.v4, x$t_4) + dot(e.v5, x$t_5) + dot(e.v6, x$t_6) + dot(e.v7, x$t_7);
#end
            }
#end
        }
