fn store_$kv(i: u32, base: u32, position: u32, lid: u32) {
    let at = base + position * (p.$kv_head_words / 16u);
    for (var e = lid; e < p.head_dim; e += 64u) {
        $kv_cache[at + e] = bitcast<u32>(heads[i * 256u + e]);
    }
}
