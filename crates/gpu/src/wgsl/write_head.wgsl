alias Out = f32;

// Writes four elements of a head's answer. They lie together however rows do, unless heads are no
// multiples of four.
fn write_head(token: u32, head: u32, i: u32, v: vec4<f32>, is_mine: bool, lid: u32) {
    if is_mine {
        let first = head * p.head_dim + 4u * i;
        let at = token * p.out_stride + place(first, p.n_heads * p.head_dim, p.is_interleaved);
        let n = p.head_dim - 4u * i;
        out[at] = v.x;
        if n > 1u {
            out[at + 1u] = v.y;
        }
        if n > 2u {
            out[at + 2u] = v.z;
        }
        if n > 3u {
            out[at + 3u] = v.w;
        }
    }
}
