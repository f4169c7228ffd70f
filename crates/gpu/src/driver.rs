//! What wgpu does not tell of an adapter, asked of its driver: how much memory there is, and whether
//! integer dots pay.

/// What a driver says of the memory that buffers lie in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DriverMemory {
    /// Bytes that there are.
    pub(crate) total_bytes: Option<u64>,
    /// Bytes that this process may have of them, what it has already included, as long as others keep
    /// what they have.
    pub(crate) process_bytes: Option<u64>,
}

/// Asks Metal, which knows what a process should have and not what others have.
#[cfg(target_os = "macos")]
pub(crate) fn driver_memory(adapter: &wgpu::Adapter) -> DriverMemory {
    use objc2_metal::MTLDevice;
    // SAFETY: the adapter lives as long as the reference, and is only asked for a number.
    let Some(metal) = (unsafe { adapter.as_hal::<wgpu::hal::api::Metal>() }) else {
        return DriverMemory::default();
    };
    DriverMemory {
        total_bytes: Some(metal.raw_device().recommendedMaxWorkingSetSize()),
        process_bytes: None,
    }
}

/// Asks Vulkan for the largest heap of the device and, where the driver keeps count
/// (`VK_EXT_memory_budget`), for what this process may have of it.
#[cfg(not(target_os = "macos"))]
pub(crate) fn driver_memory(adapter: &wgpu::Adapter) -> DriverMemory {
    use ash::{ext, vk};
    // SAFETY: the adapter lives as long as the reference, and is only asked for numbers.
    let Some(vulkan) = (unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }) else {
        return DriverMemory::default();
    };
    // The command is of Vulkan 1.1, which the device and the instance are of.
    let capabilities = vulkan.physical_device_capabilities();
    let is_counted = capabilities.supports_extension(ext::memory_budget::NAME)
        && capabilities.properties().api_version >= vk::API_VERSION_1_1
        && vulkan.shared_instance().instance_api_version() >= vk::API_VERSION_1_1;
    let instance = vulkan.shared_instance().raw_instance();
    let device = vulkan.raw_physical_device();
    let mut budgets = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let memory = match is_counted {
        true => {
            let mut answer = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budgets);
            // SAFETY: the physical device is of this instance, which the adapter keeps alive; both know
            // the command, and the device the structure that is chained to the answer.
            unsafe { instance.get_physical_device_memory_properties2(device, &mut answer) };
            answer.memory_properties
        }
        // SAFETY: the physical device is of this instance, which the adapter keeps alive.
        false => unsafe { instance.get_physical_device_memory_properties(device) },
    };
    let heaps = memory.memory_heaps[..memory.memory_heap_count as usize].iter();
    let is_local = |heap: &vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let local = heaps.enumerate().filter(|(_, heap)| is_local(heap));
    match local.max_by_key(|(_, heap)| heap.size) {
        Some((i, heap)) => DriverMemory {
            total_bytes: Some(heap.size),
            process_bytes: is_counted.then_some(budgets.heap_budget[i]),
        },
        None => DriverMemory::default(),
    }
}

/// Whether a dot of four signed bytes is an instruction. Apple's processors have none.
#[cfg(target_os = "macos")]
pub(crate) fn has_integer_dots(_: &wgpu::Adapter) -> bool {
    false
}

/// Whether a dot of four signed bytes is an instruction (`VK_KHR_shader_integer_dot_product`).
#[cfg(not(target_os = "macos"))]
pub(crate) fn has_integer_dots(adapter: &wgpu::Adapter) -> bool {
    use ash::{khr, vk};
    // SAFETY: the adapter lives as long as the reference, and is only asked for a property.
    let Some(vulkan) = (unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }) else {
        return false;
    };
    // wgpu uses it where there is the extension, which Vulkan 1.3 has taken in.
    let capabilities = vulkan.physical_device_capabilities();
    let version = capabilities
        .properties()
        .api_version
        .min(vulkan.shared_instance().instance_api_version());
    let is_known = version >= vk::API_VERSION_1_3
        || (version >= vk::API_VERSION_1_1
            && capabilities.supports_extension(khr::shader_integer_dot_product::NAME));
    if !is_known {
        return false;
    }
    let instance = vulkan.shared_instance().raw_instance();
    let device = vulkan.raw_physical_device();
    let mut dots = vk::PhysicalDeviceShaderIntegerDotProductProperties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut dots);
    // SAFETY: the physical device is of this instance, which the adapter keeps alive; both know the
    // command, and the device the structure that is chained to the answer.
    unsafe { instance.get_physical_device_properties2(device, &mut properties) };
    dots.integer_dot_product4x8_bit_packed_signed_accelerated == vk::TRUE
}
