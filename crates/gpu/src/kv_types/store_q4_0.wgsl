const $kv_GROUP_WORDS = 4u;

fn $kv_code(value: f32) -> u32 {
    return u32(clamp(value + 8.5, 0.0, 15.0));
}

// A lane is a group: d = m / -8, with m the first of the numbers that are largest in size.
fn store_$kv(i: u32, base: u32, position: u32, lid: u32) {
    let n_groups = p.head_dim / 32u;
    if lid >= n_groups {
        return;
    }
    let from_ = i * 256u + 32u * lid;
    var largest = 0.0;
    for (var e = 0u; e < 32u; e += 1u) {
        let v = heads[from_ + e];
        largest = select(largest, v, abs(v) > abs(largest));
    }
    let d = largest / -8.0;
    let inverse = select(0.0, 1.0 / d, d != 0.0);
    scales[i * 8u + lid] = half_bits(d);
    let at = base + (position * n_groups + lid) * 4u;
    for (var word = 0u; word < 4u; word += 1u) {
        var packed = 0u;
        for (var b = 0u; b < 4u; b += 1u) {
            let e = from_ + 4u * word + b;
            let both = $kv_code(heads[e] * inverse) | ($kv_code(heads[e + 16u] * inverse) << 4u);
            packed |= both << (8u * b);
        }
        $kv_cache[at + word] = packed;
    }
}
