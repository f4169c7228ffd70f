// Lanes read neighbouring numbers of a row, four each.
alias Piece = vec4<f32>;

fn w_piece(row: u32, g: u32, i: u32) -> Piece {
    return four(row, 32u * g + 4u * i);
}

fn write_w(to: u32, i: u32, numbers: Piece) {
    w_tile[to + i] = vec4<f16>(numbers);
}
