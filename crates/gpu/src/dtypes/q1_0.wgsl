fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 4u) * BLOCK_BYTES;
    let d = f16_at(block);
    let b = bytes4(block + 2u + 4u * (g % 4u));
    return Elements(
        d * (2.0 * bits4(b) - 1.0), d * (2.0 * bits4(b >> 4u) - 1.0),
        d * (2.0 * bits4(b >> 8u) - 1.0), d * (2.0 * bits4(b >> 12u) - 1.0),
        d * (2.0 * bits4(b >> 16u) - 1.0), d * (2.0 * bits4(b >> 20u) - 1.0),
        d * (2.0 * bits4(b >> 24u) - 1.0), d * (2.0 * bits4(b >> 28u) - 1.0)
    );
}
