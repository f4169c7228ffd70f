// Eight neighbouring lanes, within a subgroup.

// The largest of them.
fn eight_max(value: u32, lid: u32) -> u32 {
    var top = max(value, subgroupShuffleXor(value, 1u));
    top = max(top, subgroupShuffleXor(top, 2u));
    return max(top, subgroupShuffleXor(top, 4u));
}

// The sum of the first four and of the others.
fn half_sums(value: i32, lid: u32) -> vec2<i32> {
    var sum = value + subgroupShuffleXor(value, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    let other = subgroupShuffleXor(sum, 4u);
    return select(vec2<i32>(sum, other), vec2<i32>(other, sum), (lid & 4u) != 0u);
}

// The sum of them.
fn eight_sum(value: f32, lid: u32) -> f32 {
    var sum = value + subgroupShuffleXor(value, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    return sum + subgroupShuffleXor(sum, 4u);
}
