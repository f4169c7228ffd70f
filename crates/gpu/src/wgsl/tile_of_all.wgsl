    let expert = 0u;
    let first = 32u * wid.y;
    let n = min(32u, p.n_tokens - first);
    let expert_at = 0u;
