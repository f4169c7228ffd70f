//! Buffers over pages through Vulkan: `VK_EXT_external_memory_host`.

use ash::ext::external_memory_host;
use ash::vk;
use wgpu::hal::api::Vulkan;
use wgpu::hal::vulkan::{Buffer, CreateDeviceCallbackArgs};

use super::Pages;
use crate::device::AdapterKind;

/// The processor as an adapter. Others share its memory too, but some look at the pages of a file only
/// when a step is submitted, and lose the device if they are not what they expect.
pub(super) const KINDS: [AdapterKind; 1] = [AdapterKind::Software];

const HANDLE: vk::ExternalMemoryHandleTypeFlags =
    vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::STORAGE_BUFFER;
/// The smallest page of the processors at hand: what rounds to no more lies in mapped pages.
const PAGE_BYTES: u64 = 4096;

pub(super) fn page_bytes(adapter: &wgpu::Adapter) -> Option<usize> {
    // SAFETY: the adapter lives as long as the reference, and is only asked for numbers.
    let vulkan = unsafe { adapter.as_hal::<Vulkan>() }?;
    // The commands are of Vulkan 1.1, which the device and the instance are of.
    let capabilities = vulkan.physical_device_capabilities();
    let is_known = capabilities.supports_extension(external_memory_host::NAME)
        && capabilities.properties().api_version >= vk::API_VERSION_1_1
        && vulkan.shared_instance().instance_api_version() >= vk::API_VERSION_1_1;
    if !is_known {
        return None;
    }
    let instance = vulkan.shared_instance().raw_instance();
    let device = vulkan.raw_physical_device();
    let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
    // SAFETY: the physical device is of this instance, which the adapter keeps alive; both know the
    // command, and the device the structure that is chained to the answer.
    unsafe { instance.get_physical_device_properties2(device, &mut properties) };
    let info = vk::PhysicalDeviceExternalBufferInfo::default()
        .usage(USAGE)
        .handle_type(HANDLE);
    let mut buffer = vk::ExternalBufferProperties::default();
    // SAFETY: as above; the handle type is one that the device knows.
    unsafe { instance.get_physical_device_external_buffer_properties(device, &info, &mut buffer) };
    let features = buffer.external_memory_properties.external_memory_features;
    let is_fit = features.contains(vk::ExternalMemoryFeatureFlags::IMPORTABLE)
        && !features.contains(vk::ExternalMemoryFeatureFlags::DEDICATED_ONLY)
        && host.min_imported_host_pointer_alignment <= PAGE_BYTES;
    is_fit.then_some(PAGE_BYTES as usize)
}

/// As wgpu does it, with the extension, which it does not ask for.
pub(super) fn request_device(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Result<(wgpu::Device, wgpu::Queue), String> {
    let opened = {
        // SAFETY: the adapter lives as long as the reference, and is only asked for a device.
        let vulkan = unsafe { adapter.as_hal::<Vulkan>() }.ok_or("no adapter of Vulkan")?;
        let add = |args: CreateDeviceCallbackArgs<'_, '_, '_>| {
            args.extensions.push(external_memory_host::NAME);
        };
        // SAFETY: features and limits are the adapter's own, and it supports the extension, of whose
        // requirements Vulkan 1.1 has all.
        unsafe {
            vulkan.open_with_callback(
                descriptor.required_features,
                &descriptor.required_limits,
                &descriptor.memory_hints,
                Some(Box::new(add)),
            )
        }
        .map_err(|error| error.to_string())?
    };
    // SAFETY: the device was made from this adapter just now, with the description's features.
    unsafe { adapter.create_device_from_hal::<Vulkan>(opened, descriptor) }
        .map_err(|error| error.to_string())
}

pub(super) fn buffer(
    device: &wgpu::Device,
    pages: &Pages,
    descriptor: &wgpu::BufferDescriptor<'_>,
) -> Option<wgpu::Buffer> {
    let buffer = {
        // SAFETY: the device lives as long as the reference, and is only asked for a buffer.
        let vulkan = unsafe { device.as_hal::<Vulkan>() }?;
        let raw = vulkan.raw_device().clone();
        let (buffer, memory) = import(vulkan.shared_instance().raw_instance(), &raw, pages).ok()?;
        let kept = pages.clone();
        let let_go = move || {
            // SAFETY: wgpu is done with the buffer, still has its device, and leaves both to us. The
            // pages are let go afterwards.
            unsafe {
                raw.destroy_buffer(buffer, None);
                raw.free_memory(memory, None);
            }
            drop(kept);
        };
        // SAFETY: the buffer lives until the function is called, which is when wgpu drops it; nobody maps
        // it.
        unsafe { Buffer::from_raw_externally_owned(buffer, Box::new(let_go)) }
    };
    // SAFETY: the buffer was made from this device's handle just now, has the description's size, which
    // is not zero, and usage, and its bytes were there before.
    Some(unsafe { device.create_buffer_from_hal::<Vulkan>(buffer, descriptor) })
}

/// A buffer and its memory, which are the pages.
fn import(
    instance: &ash::Instance,
    device: &ash::Device,
    pages: &Pages,
) -> Result<(vk::Buffer, vk::DeviceMemory), vk::Result> {
    let n_bytes = pages.n_bytes as u64;
    let start = pages.start().cast_mut().cast();
    let extension = external_memory_host::Device::new(instance, device);
    let mut found = vk::MemoryHostPointerPropertiesEXT::default();
    // SAFETY: the device was opened with the extension, and the pages are mapped.
    unsafe {
        (extension.fp().get_memory_host_pointer_properties_ext)(
            device.handle(),
            HANDLE,
            start,
            &mut found,
        )
    }
    .result()?;
    let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HANDLE);
    let info = vk::BufferCreateInfo::default()
        .size(n_bytes)
        .usage(USAGE)
        .push_next(&mut external);
    // SAFETY: the description is whole, of a kind that the device said it can import.
    let buffer = unsafe { device.create_buffer(&info, None) }?;
    let bind = || {
        // SAFETY: the buffer is of this device.
        let wanted = unsafe { device.get_buffer_memory_requirements(buffer) };
        let types = wanted.memory_type_bits & found.memory_type_bits;
        if types == 0 || wanted.size > n_bytes {
            return Err(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE);
        }
        let mut import = vk::ImportMemoryHostPointerInfoEXT::default()
            .handle_type(HANDLE)
            .host_pointer(start);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(n_bytes)
            .memory_type_index(types.trailing_zeros())
            .push_next(&mut import);
        // SAFETY: the pages are whole ones that can be read, of a memory type that they may have, and stay
        // where they are while their bytes are kept, which who calls does until the memory is freed. They
        // are bound for reading only.
        let memory = unsafe { device.allocate_memory(&info, None) }?;
        // SAFETY: buffer and memory are of this device, new, and of one size.
        match unsafe { device.bind_buffer_memory(buffer, memory, 0) } {
            Ok(()) => Ok(memory),
            Err(error) => {
                // SAFETY: nothing uses it.
                unsafe { device.free_memory(memory, None) };
                Err(error)
            }
        }
    };
    match bind() {
        Ok(memory) => Ok((buffer, memory)),
        Err(error) => {
            // SAFETY: nothing uses it.
            unsafe { device.destroy_buffer(buffer, None) };
            Err(error)
        }
    }
}
