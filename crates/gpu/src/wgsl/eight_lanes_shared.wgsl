// Eight neighbouring lanes, through workgroup memory.
var<workgroup> lane_tops: array<u32, LANES>;
var<workgroup> lane_sums: array<i32, LANES>;
var<workgroup> lane_parts: array<f32, LANES>;

// The largest of them.
fn eight_max(value: u32, lid: u32) -> u32 {
    lane_tops[lid] = value;
    workgroupBarrier();
    let first = lid / 8u * 8u;
    var top = lane_tops[first];
#for k 7
    top = max(top, lane_tops[first + $ku + 1u]);
#end
    workgroupBarrier();
    return top;
}

// The sum of the first four and of the others.
fn half_sums(value: i32, lid: u32) -> vec2<i32> {
    lane_sums[lid] = value;
    workgroupBarrier();
    let first = lid / 8u * 8u;
    var sums = vec2<i32>(0);
#for k 4
    sums += vec2<i32>(lane_sums[first + $ku], lane_sums[first + $ku + 4u]);
#end
    workgroupBarrier();
    return sums;
}

// The sum of them.
fn eight_sum(value: f32, lid: u32) -> f32 {
    lane_parts[lid] = value;
    workgroupBarrier();
    let first = lid / 8u * 8u;
    var sum = 0.0;
#for k 8
    sum += lane_parts[first + $ku];
#end
    workgroupBarrier();
    return sum;
}
