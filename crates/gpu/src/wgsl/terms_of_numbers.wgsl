    // Four numbers a lane.
    let n_fours = select(0u, (p.row_len + 3u) / 4u, is_mine);
    for (var i = lane; i < n_fours; i += GROUP) {
#for t NT
        let x$t_0 = x4(x$t, i / 8u, i % 8u);
#end
#for r NR
        {
            let v = four(row$r, 4u * i);
#for t NT
            sum$r_$t += dot(v, x$t_0);
#end
        }
#end
    }
