// Element e of the head at `at` of x, turned by its position: the cosines and sines of the
// position, n_pairs of each, are in the batch from `turns` on.
fn turned(at: u32, e: u32, turns: u32) -> f32 {
    let own = x[at + e];
    if e >= 2u * p.n_pairs {
        return own;
    }
    var pair = e / 2u;
    var other = e ^ 1u;
    var is_second = (e & 1u) == 1u;
    if p.pairs_halves != 0u {
        is_second = e >= p.n_pairs;
        pair = e % p.n_pairs;
        other = select(e + p.n_pairs, e - p.n_pairs, is_second);
    }
    let cosine = bitcast<f32>(batch[turns + pair]);
    let sine = bitcast<f32>(batch[turns + p.n_pairs + pair]);
    return own * cosine + select(-x[at + other] * sine, x[at + other] * sine, is_second);
}
