    let expert = experts[token];
    let is_mine = expert >= p.first_expert && expert < p.first_expert + p.n_experts;
    let expert_at = select(0u, (expert - p.first_expert) * p.expert_bytes, is_mine);
