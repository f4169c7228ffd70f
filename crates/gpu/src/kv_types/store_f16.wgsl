fn store_$kv(i: u32, base: u32, position: u32, lid: u32) {
    let at = base + position * (p.$kv_head_words / 16u);
    for (var e = 2u * lid; e < p.head_dim; e += 128u) {
        var both = half_bits(heads[i * 256u + e]);
        if e + 1u < p.head_dim {
            both |= half_bits(heads[i * 256u + e + 1u]) << 16u;
        }
        $kv_cache[at + e / 2u] = both;
    }
}
