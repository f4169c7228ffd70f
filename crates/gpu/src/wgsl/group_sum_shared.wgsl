// The sum over the lanes of a group, through workgroup memory.
var<workgroup> group_values: array<f32, LANES>;

fn group_sum(value: f32, lid: u32) -> f32 {
    group_values[lid] = value;
    workgroupBarrier();
    for (var n = GROUP / 2u; n > 0u; n /= 2u) {
        if lid % GROUP < n {
            group_values[lid] += group_values[lid + n];
        }
        workgroupBarrier();
    }
    let sum = group_values[lid - lid % GROUP];
    workgroupBarrier();
    return sum;
}
