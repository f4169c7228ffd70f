    let expert = 0u;
    let expert_at = 0u;
    let is_mine = true;
