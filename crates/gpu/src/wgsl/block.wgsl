#include bytes

var<workgroup> block: array<f32, 32u * NT>; // [token][row]
