// The sum over the lanes of a group, which is a subgroup.
fn group_sum(value: f32, lid: u32) -> f32 {
    return subgroupAdd(value);
}
