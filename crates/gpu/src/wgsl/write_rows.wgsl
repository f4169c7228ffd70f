alias Out = f32;

// Writes a piece of a row that begins at an element of out.
fn write_normed(at: u32, mean: f32, scale: f32, lid: u32) {
    for (var i = lid; i < p.len; i += 4u * LANES) {
#for u 4
        let y$u = normed(at, i + $uu * LANES, mean, scale);
#end
#for u 4
        if i + $uu * LANES < p.len {
            out[at + place(i + $uu * LANES, p.len, p.is_interleaved)] = y$u;
        }
#end
    }
}
