fn store_scales(has_first: bool, has_second: bool, base: u32, position: u32, lid: u32) {}
