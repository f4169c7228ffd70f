// A lane reads a group of a row, and takes it apart when it is written.
alias Piece = Codes;

// Behind the row's end a group that meets zeros.
fn w_piece(row: u32, g: u32, i: u32) -> Piece {
    return codes(row, min(g + i, p.row_len / 32u - 1u));
}

fn write_w(to: u32, i: u32, codes: Piece) {
    let e = elements(codes);
#for k 8
    w_tile[to + 8u * i + $ku] = vec4<f16>(e.v$k);
#end
}
