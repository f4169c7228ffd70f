fn store_$kv_scales(has_first: bool, has_second: bool, base: u32, position: u32, lid: u32) {}
