//! Every kernel in Metal's language, translated as wgpu does it there, since no test runs on a Mac.

use naga::back::msl;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::kernels::{Form, Kernel, Reduction};

/// From macOS 11 to 26.
const VERSIONS: [(u8, u8); 4] = [(2, 3), (3, 0), (3, 2), (4, 0)];

/// A kernel's text, checked.
fn module(name: &str, source: &str) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)));
    let capabilities = Capabilities::IMMEDIATES
        | Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::SHADER_FLOAT16
        | Capabilities::COOPERATIVE_MATRIX;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(source)));
    (module, info)
}

/// A kernel in each version.
fn translate(name: &str, source: &str) -> Vec<String> {
    let (module, info) = module(name, source);
    let unchecked = BoundsCheckPolicy::Unchecked;
    let write = |version: &(u8, u8)| {
        let options = msl::Options {
            lang_version: *version,
            fake_missing_bindings: true,
            bounds_check_policies: BoundsCheckPolicies {
                index: unchecked,
                buffer: unchecked,
                image_load: unchecked,
                binding_array: unchecked,
            },
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            emit_int_div_checks: false,
            ..msl::Options::default()
        };
        let pipeline = msl::PipelineOptions::default();
        let (text, info) = msl::write_string(&module, &info, &options, &pipeline)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        for entry in info.entry_point_names {
            entry.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        text
    };
    VERSIONS.iter().map(write).collect()
}

#[test]
fn every_kernel_translates_to_metal() {
    // Where a compiler is at hand, the texts go into a folder for it.
    let folder = std::env::var_os("MINERVA_MSL_DIR").map(std::path::PathBuf::from);
    let keep = |name: &str, texts: &[String]| {
        if let Some(folder) = &folder {
            std::fs::write(folder.join(format!("{name}.metal")), &texts[1]).unwrap();
        }
    };
    // Those with units of f16 are not taken where there are units of f32, nor rows as bytes where a dot of
    // bytes is no instruction.
    let is_taken = |kernel: &Kernel| match kernel {
        Kernel::MulMmHalf(..) | Kernel::Halves | Kernel::Quantize => false,
        Kernel::MulMv(_, _, _, form)
        | Kernel::RmsNorm(form)
        | Kernel::LayerNorm(form)
        | Kernel::Attend(_, _, form)
        | Kernel::Join(form) => *form == Form::F32,
        _ => true,
    };
    for kernel in Kernel::all().into_iter().filter(is_taken) {
        // The subgroups of a Mac have 32 lanes.
        let name = kernel.to_string();
        let texts = translate(&name, &kernel.source(Reduction::Subgroup(32)));
        for text in &texts {
            let is_summed = matches!(
                kernel,
                Kernel::MulMv(..) | Kernel::RmsNorm(_) | Kernel::LayerNorm(_)
            );
            assert_eq!(text.contains("simd_sum"), is_summed, "{kernel}");
            let has_units = matches!(kernel, Kernel::MulMmCoop(..));
            let is_multiplied = text.contains("simdgroup_multiply_accumulate");
            assert_eq!(is_multiplied, has_units, "{kernel}");
            // The checks that wgpu leaves out of trusted kernels.
            for check in ["loop_bound", "_buffer_sizes.size"] {
                assert!(!text.contains(check), "{kernel}: {check}");
            }
        }
        keep(&name, &texts);
        if texts[0].contains("simd_sum") {
            let texts = translate(&name, &kernel.source(Reduction::Shared));
            keep(&format!("{name}_shared"), &texts);
        }
    }
    // The first that a device is asked to run.
    keep(
        "probe",
        &translate("probe", include_str!("wgsl/probe.wgsl")),
    );
}

/// The others are compiled by whatever adapter the tests run on; this one has no matrix units.
#[test]
fn matrix_units_translate_to_vulkan() {
    use naga::back::spv;
    let has_units =
        |kernel: &Kernel| matches!(kernel, Kernel::MulMmCoop(..) | Kernel::MulMmHalf(..));
    for kernel in Kernel::all().into_iter().filter(has_units) {
        let name = kernel.to_string();
        let (module, info) = module(&name, &kernel.source(Reduction::Subgroup(32)));
        let options = spv::Options {
            lang_version: (1, 4),
            ..spv::Options::default()
        };
        let words = spv::write_vec(&module, &info, &options, None);
        let words = words.unwrap_or_else(|error| panic!("{kernel}: {error}"));
        // OpCooperativeMatrixMulAddKHR.
        assert!(words.iter().any(|word| word & 0xffff == 4459), "{kernel}");
    }
}
