    let expert = experts[3u * wid.y];
    let first = experts[3u * wid.y + 1u];
    let n = experts[3u * wid.y + 2u];
    // Without tokens, or with another buffer's matrix. Neither && nor a function, which would hide that
    // all lanes agree.
    if (n == 0u) | (expert - p.first_expert >= p.n_experts) {
        return;
    }
    let expert_at = (expert - p.first_expert) * p.expert_bytes;
