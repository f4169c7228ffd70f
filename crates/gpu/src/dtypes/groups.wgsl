// Blocks of codes: `codes` gives those of a group.
fn elements(e: Codes) -> Elements {
    return Elements(
        e.d.x * signed4(e.c0) + e.m.x, e.d.x * signed4(e.c1) + e.m.x,
        e.d.x * signed4(e.c2) + e.m.x, e.d.x * signed4(e.c3) + e.m.x,
        e.d.y * signed4(e.c4) + e.m.y, e.d.y * signed4(e.c5) + e.m.y,
        e.d.y * signed4(e.c6) + e.m.y, e.d.y * signed4(e.c7) + e.m.y
    );
}

fn unpack(row: u32, g: u32) -> Elements {
    return elements(codes(row, g));
}
