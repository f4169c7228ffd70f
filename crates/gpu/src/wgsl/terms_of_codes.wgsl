        // A group of elements a lane, with activations as bytes.
        let n_groups = p.row_len / 32u;
#for t NT
        var squares$t = 0.0;
#end
        for (var g = select(n_groups, lane, is_mine); g < n_groups; g += GROUP) {
            let n = min(n_groups - g / 32u * 32u, 32u);
            let at = g / 32u * 128u + g % 32u;
#for r NR
            let e$r = codes(row$r, g);
#end
#for t NT
            {
#for k 4
                let q$k = x[x$t + at + $ku * n];
#end
                let factors = bitcast<vec4<f32>>(x[x$t + 4u * n_groups + g]);
                squares$t += factors.w;
#for r NR
                sum$r_$t += group_product(e$r, q0, q1, q2, q3, factors);
#end
            }
#end
        }
        if p.x_has_norm != 0u {
#for t NT
            {
                let norm = sqrt(group_sum(squares$t, lid) / f32(p.row_len) + p.eps);
#for r NR
                sum$r_$t /= norm;
#end
            }
#end
        }
