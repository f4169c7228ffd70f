    // The block as a group of each token's bytes, eight lanes a token. A norm's weights are in them: what reads
    // them divides by the norm, which is not known before all blocks are.
    workgroupBarrier();
    let own = min(lid / 8u, NT - 1u);
    let four = lid % 8u;
    let n_rows = min(p.n_rows, p.second_at);
    let is_own = lid < 8u * NT && token + own < p.n_tokens && 32u * tile < n_rows;
    let at = 32u * own + 4u * four;
    var v = vec4<f32>(block[at], block[at + 1u], block[at + 2u], block[at + 3u]);
    let squares = eight_sum(dot(v, v), lid);
    let i = p.first_row / 4u + 8u * tile + four;
    if HAS_NORM {
        v *= norm_weight[select(0u, i, is_own)];
    }
    let n_groups = p.second_at / 32u;
    let bytes_at = 4u * (token + own) * bytes_stride(n_groups);
    write_bytes(bytes_at, n_groups, select(8u * n_groups, i, is_own), v, lid);
    if HAS_NORM && is_own && four == 0u {
        bytes_out[bytes_at + 4u * (4u * n_groups + i / 8u) + 3u] = bitcast<u32>(squares);
    }
