//! Weights on their way to the device: buffers over the pages of a file, and copies in slices.

use minerva_compute::{DeviceError, Limits, Program};

use super::STORAGE;
use crate::device::Device;
use crate::in_place::Pages;
use crate::kernels::Abilities;
use crate::lower::{PAD_BYTES, Plan, Upload, lower};

/// Told how many bytes of all are on the device.
pub(crate) type OnUpload<'a> = &'a dyn Fn(u64, u64);

/// Bytes that go to the device at once.
const SLICE_BYTES: usize = 16 << 20;
/// Bytes that may be under way before they are waited for.
const UNDERWAY_BYTES: usize = 64 << 20;

/// Lowers a program, and makes the buffers over pages that are read in place; without any, where the
/// driver refuses one of them.
pub(super) fn lower_onto(
    device: &Device,
    program: &Program,
    limits: &Limits,
    over: &dyn Fn(&Pages) -> Option<wgpu::Buffer>,
) -> Result<(Plan, Vec<wgpu::Buffer>), DeviceError> {
    let abilities = device.abilities;
    let plan = lower(program, limits, abilities, device.max_binding_bytes)?;
    let pages = plan.uploads.iter().filter_map(|upload| match upload {
        Upload::Pages(pages, _) => Some(pages),
        Upload::Rows(_) | Upload::Floats(_) => None,
    });
    if let Some(in_place) = pages.map(over).collect() {
        return Ok((plan, in_place));
    }
    log::warn!(
        "{}: the driver refuses pages of the file, weights are copied",
        device.info.name
    );
    let abilities = Abilities {
        page_bytes: None,
        ..abilities
    };
    let plan = lower(program, limits, abilities, device.max_binding_bytes)?;
    Ok((plan, Vec::new()))
}

/// Copies weights to the device in slices, but for those that are read in place.
pub(super) fn upload(
    device: &Device,
    uploads: &[Upload],
    in_place: Vec<wgpu::Buffer>,
    on_upload: OnUpload<'_>,
) -> Result<Vec<wgpu::Buffer>, DeviceError> {
    let copied = uploads
        .iter()
        .filter(|upload| !matches!(upload, Upload::Pages(..)));
    let total: u64 = copied.map(Upload::n_bytes).sum();
    let mut in_place = in_place.into_iter();
    let (mut done, mut underway) = (0, 0);
    let mut buffers = Vec::with_capacity(uploads.len());
    let mut slice = Vec::with_capacity(SLICE_BYTES);
    for upload in uploads {
        if let Upload::Pages(..) = upload {
            buffers.push(in_place.next().expect("a buffer for each"));
            continue;
        }
        let size = upload.n_bytes().next_multiple_of(4) + PAD_BYTES;
        let buffer = device.attempt(|| Ok(device.buffer("weights", size, STORAGE)))?;
        let mut at = 0;
        let mut send = |slice: &mut Vec<u8>| -> Result<(), DeviceError> {
            done += slice.len() as u64;
            underway += slice.len();
            // Whole words; what follows is padding.
            slice.resize(slice.len().next_multiple_of(4), 0);
            device.attempt(|| {
                device.queue.write_buffer(&buffer, at, slice);
                Ok(())
            })?;
            at += slice.len() as u64;
            slice.clear();
            if underway >= UNDERWAY_BYTES {
                underway = 0;
                device.wait(device.submit(None)?)?;
            }
            on_upload(done, total);
            Ok(())
        };
        let mut add = |mut bytes: &[u8]| -> Result<(), DeviceError> {
            while !bytes.is_empty() {
                let room = SLICE_BYTES - slice.len();
                let (now, later) = bytes.split_at(room.min(bytes.len()));
                slice.extend_from_slice(now);
                bytes = later;
                if slice.len() == SLICE_BYTES {
                    send(&mut slice)?;
                }
            }
            Ok(())
        };
        match upload {
            Upload::Rows(weights) => {
                for weight in weights {
                    add(weight.bytes())?;
                }
            }
            Upload::Pages(..) => {}
            Upload::Floats(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                add(&bytes)?;
            }
        }
        send(&mut slice)?;
        buffers.push(buffer);
    }
    device.wait(device.submit(None)?)?;
    Ok(buffers)
}
