// Where element i of a row of `width` lies. In rows that products alone read, each 32 groups of 32
// elements are turned: first the first four elements of every group, then the second four, and so on,
// so that lanes with a group each read neighbours.
fn place(i: u32, width: u32, is_interleaved: u32) -> u32 {
    if is_interleaved == 0u {
        return i;
    }
    let n = min(width / 32u - i / 1024u * 32u, 32u);
    return i / 1024u * 1024u + (i % 32u / 4u * n + i / 32u % 32u) * 4u + i % 4u;
}
