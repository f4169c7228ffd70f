fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 2u) * BLOCK_BYTES;
    let d = f16_at(block);
    let a = bytes4(block + 2u + 8u * (g % 2u));
    let b = bytes4(block + 6u + 8u * (g % 2u));
    return Elements(
        d * (pairs4(a) - 1.0), d * (pairs4(a >> 8u) - 1.0),
        d * (pairs4(a >> 16u) - 1.0), d * (pairs4(a >> 24u) - 1.0),
        d * (pairs4(b) - 1.0), d * (pairs4(b >> 8u) - 1.0),
        d * (pairs4(b >> 16u) - 1.0), d * (pairs4(b >> 24u) - 1.0)
    );
}
