//! Buffers over pages through Metal: `newBufferWithBytesNoCopy`.

use std::ffi::c_void;
use std::ptr::NonNull;

use block2::RcBlock;
use objc2_metal::{MTLDevice, MTLResourceOptions};
use wgpu::hal::api::Metal;

use super::Pages;
use crate::device::AdapterKind;

/// Devices with no memory but the processor's.
pub(super) const KINDS: [AdapterKind; 1] = [AdapterKind::Integrated];

pub(super) fn page_bytes(_: &wgpu::Adapter) -> Option<usize> {
    Some(match cfg!(target_arch = "aarch64") {
        true => 16384,
        false => 4096,
    })
}

pub(super) fn request_device(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Result<(wgpu::Device, wgpu::Queue), String> {
    pollster::block_on(adapter.request_device(descriptor)).map_err(|error| error.to_string())
}

pub(super) fn buffer(
    device: &wgpu::Device,
    pages: &Pages,
    descriptor: &wgpu::BufferDescriptor<'_>,
) -> Option<wgpu::Buffer> {
    // Metal has the block as long as the buffer, and the block the bytes.
    let kept = pages.clone();
    let let_go = RcBlock::new(move |_: NonNull<c_void>, _: usize| {
        let _ = &kept;
    });
    let start = NonNull::new(pages.start().cast_mut().cast::<c_void>())?;
    let raw = {
        // SAFETY: the device lives as long as the reference, and is only asked for a buffer.
        let metal = unsafe { device.as_hal::<Metal>() }?;
        // SAFETY: the pages can be read from their first byte to their last, and stay where they are while
        // the block keeps their bytes, which is until Metal is done with the buffer; any thread may drop
        // them. They are bound for reading only.
        unsafe {
            metal
                .raw_device()
                .newBufferWithBytesNoCopy_length_options_deallocator(
                    start,
                    pages.n_bytes,
                    MTLResourceOptions::StorageModeShared,
                    Some(&let_go),
                )
        }?
    };
    // SAFETY: the buffer is of this length.
    let buffer = unsafe { wgpu::hal::metal::Device::buffer_from_raw(raw, descriptor.size) };
    // SAFETY: the buffer was made from this device's handle just now, has the description's size, which
    // is not zero, and its bytes were there before.
    Some(unsafe { device.create_buffer_from_hal::<Metal>(buffer, descriptor) })
}
