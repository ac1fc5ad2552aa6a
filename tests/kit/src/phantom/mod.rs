//! Phantom: studies that look like a scanner's but belong to nobody, the same for the same seed.
//!
//! In: a seed and a size. Out: PS3.10 files in memory.
//! Invariant: the same phantom gives the same bytes, whatever the machine and the order of asking.
//! May not: read a clock, keep files, imitate a real person.

mod anatomy;
mod header;
mod odd;
mod slice;

use std::path::Path;

use anyhow::Context as _;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTable, FileMetaTableBuilder, InMemDicomObject};
use study::{SopClassUid, SopInstanceUid, StudyUid, TransferSyntaxUid};

use crate::seeded::mix;
use anatomy::{HEIGHT_MM, Head};

pub use odd::oddities;

/// One instance as a PS3.10 file.
#[derive(Clone, PartialEq, Eq)]
pub struct Instance {
    /// What kind of object it is.
    pub sop_class: SopClassUid,
    /// Its name.
    pub sop: SopInstanceUid,
    /// How its data set is written.
    pub transfer_syntax: TransferSyntaxUid,
    /// The whole file: preamble, group 2, data set.
    pub file: Vec<u8>,
    /// Where the data set begins.
    pub data_set_at: usize,
}

impl Instance {
    /// Reads group 2 of a PS3.10 file; the data set stays as it is.
    ///
    /// This is dicom-object's reading and not our own, so that the tests have a second opinion.
    pub fn parse(file: Vec<u8>) -> anyhow::Result<Self> {
        let after_preamble = file.get(128..).context("shorter than a preamble")?;
        let meta = FileMetaTable::from_reader(after_preamble)?;
        // PS3.10 7.1: preamble, `DICM`, the group length element, then as many bytes as it says.
        let data_set_at = 128 + 4 + 12 + meta.information_group_length as usize;
        anyhow::ensure!(data_set_at <= file.len(), "cut inside group 2");
        Ok(Self {
            sop_class: SopClassUid::parse(&meta.media_storage_sop_class_uid)?,
            sop: SopInstanceUid::parse(&meta.media_storage_sop_instance_uid)?,
            transfer_syntax: TransferSyntaxUid::parse(&meta.transfer_syntax)?,
            file,
            data_set_at,
        })
    }

    /// Reads every file of a folder as an instance, in the order of their names.
    pub fn read_folder(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let mut paths = std::fs::read_dir(folder)
            .with_context(|| format!("cannot list {}", folder.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        let read = |path: &Path| Self::parse(std::fs::read(path)?);
        paths
            .iter()
            .map(|path| read(path).with_context(|| path.display().to_string()))
            .collect()
    }

    /// The data set: what must come out as it went in.
    pub fn data_set(&self) -> &[u8] {
        &self.file[self.data_set_at..]
    }

    fn compose(object: InMemDicomObject, transfer_syntax: &str) -> Self {
        let mut file = Vec::new();
        object
            .with_meta(FileMetaTableBuilder::new().transfer_syntax(transfer_syntax))
            .expect("the object names its class and instance")
            .write_all(&mut file)
            .expect("a generated object is valid, and memory takes it");
        Self::parse(file).expect("it was written this moment")
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Instance({}, {} bytes)", self.sop, self.file.len())
    }
}

/// Writes instances as `0001.dcm`, `0002.dcm` ... into a folder.
pub fn write_folder(folder: &Path, instances: &[Instance]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (number, instance) in (1..).zip(instances) {
        std::fs::write(folder.join(format!("{number:04}.dcm")), &instance.file)?;
    }
    Ok(())
}

/// A CT study of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phantom {
    /// Which head, and which study.
    pub seed: u64,
    /// Slices, from the base of the skull upwards.
    pub slices: u16,
    /// Rows and columns of each.
    pub side: u16,
}

impl Phantom {
    /// A head as a clinic would send it: 120 slices of 512 x 512, 63 MB.
    pub fn head(seed: u64) -> Self {
        Self {
            seed,
            slices: 120,
            side: 512,
        }
    }

    /// The same head coarsely, 12 slices of 64 x 64, for tests that are not about size.
    pub fn small(seed: u64) -> Self {
        Self {
            seed,
            slices: 12,
            side: 64,
        }
    }

    /// The study's UID.
    pub fn study(&self) -> StudyUid {
        StudyUid::parse(&self.uid(1, 0)).expect("generated within the rules")
    }

    /// The UID of slice `index`.
    pub fn sop(&self, index: u16) -> SopInstanceUid {
        SopInstanceUid::parse(&self.uid(4, u64::from(index))).expect("generated within the rules")
    }

    /// Slice `index` of `0..slices`, explicit little endian.
    pub fn slice(&self, index: u16) -> Instance {
        Instance::compose(self.object(index), uids::EXPLICIT_VR_LITTLE_ENDIAN)
    }

    /// All slices, in the order of the scan.
    pub fn instances(&self) -> Vec<Instance> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = usize::from(self.slices).div_ceil(workers).max(1);
        let indexes: Vec<u16> = (0..self.slices).collect();
        std::thread::scope(|scope| {
            let shares: Vec<_> = indexes
                .chunks(share)
                .map(|part| scope.spawn(|| part.iter().map(|i| self.slice(*i)).collect::<Vec<_>>()))
                .collect();
            shares
                .into_iter()
                .flat_map(|share| share.join().expect("making a slice cannot fail"))
                .collect()
        })
    }

    fn object(&self, index: u16) -> InMemDicomObject {
        let thickness = HEIGHT_MM / f32::from(self.slices);
        let z_mm = thickness * f32::from(index);
        let pixels = slice::pixels(
            &Head::new(self.seed),
            z_mm,
            thickness,
            usize::from(self.side),
            mix(self.seed ^ (u64::from(index) << 40)),
        );
        let mut object = header::ct(self, index, z_mm);
        object.put(DataElement::new(
            tags::PIXEL_DATA,
            VR::OW,
            PrimitiveValue::U16(pixels.into()),
        ));
        object
    }

    /// A UID under the arc for random numbers (PS3.5 B.2); the size is part of the study's name.
    fn uid(&self, kind: u64, number: u64) -> String {
        let size = u64::from(self.slices) << 16 | u64::from(self.side);
        let high = mix(mix(self.seed) ^ mix(size) ^ mix(kind << 32 | number));
        format!("2.25.{}", u128::from(high) << 64 | u128::from(mix(high)))
    }
}

#[cfg(test)]
mod tests;
