//! How much memory an adapter has, which wgpu does not tell: asked of the driver.

/// Bytes that buffers may take, where the driver says.
#[cfg(target_os = "macos")]
pub(crate) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    use objc2_metal::MTLDevice;
    // SAFETY: the adapter lives as long as the reference, and is only asked for a number.
    let metal = unsafe { adapter.as_hal::<wgpu::hal::api::Metal>() }?;
    Some(metal.raw_device().recommendedMaxWorkingSetSize())
}

/// Bytes that buffers may take, where the driver says: the largest heap of the device.
#[cfg(not(target_os = "macos"))]
pub(crate) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the adapter lives as long as the reference, and is only asked for a number.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let device = vulkan.raw_physical_device();
    let instance = vulkan.shared_instance().raw_instance();
    // SAFETY: the physical device is of this instance, which the adapter keeps alive.
    let memory = unsafe { instance.get_physical_device_memory_properties(device) };
    let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
    // Bit 0: local to the device.
    let local = heaps.iter().filter(|heap| heap.flags.as_raw() & 1 == 1);
    local.map(|heap| heap.size).max()
}
