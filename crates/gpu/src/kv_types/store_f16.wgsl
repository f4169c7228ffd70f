fn store_head(i: u32, base: u32, position: u32, lid: u32) {
    let at = base + position * (p.head_words / 16u);
    for (var e = lid; e < p.head_dim / 2u; e += 64u) {
        let low = half_bits(heads[i * 256u + 2u * e]);
        cache[at + e] = low | (half_bits(heads[i * 256u + 2u * e + 1u]) << 16u);
    }
}
