// The tokens of a tile: up to TILE_TOKENS that the same matrix is multiplied with.
const NO_TOKEN = 0xffffffffu;

fn token_at(first: u32, n: u32, i: u32) -> u32 {
    if i >= n {
        return NO_TOKEN;
    }
    if HAS_EXPERTS {
        return experts[p.order_at + first + i];
    }
    return first + i;
}
