    let expert = 0u;
    let first = TILE_TOKENS * wid.y;
    let n = min(TILE_TOKENS, p.n_tokens - first);
    let expert_at = 0u;
