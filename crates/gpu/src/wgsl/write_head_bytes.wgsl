alias Out = u32;
#include bytes

// Writes four elements of a head's answer, as bytes; heads are multiples of 32 elements.
fn write_head(token: u32, head: u32, i: u32, v: vec4<f32>, is_mine: bool, lid: u32) {
    let n_groups = p.n_heads * p.head_dim / 32u;
    let element = select(8u * n_groups, head * (p.head_dim / 4u) + i, is_mine);
    write_bytes(4u * token * bytes_stride(n_groups), n_groups, element, v, lid);
}
