use std::collections::BTreeSet;

use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, from_reader};

use super::*;

fn opened(instance: &Instance) -> DefaultDicomObject {
    from_reader(&instance.file[..]).unwrap()
}

fn stored(instance: &Instance) -> Vec<u16> {
    opened(instance)
        .element(tags::PIXEL_DATA)
        .unwrap()
        .to_multi_int()
        .unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let all = Phantom::small(5).instances();
    assert_eq!(all.len(), 12);
    assert_eq!(all[7], Phantom::small(5).slice(7));
    assert_ne!(all[7].file, Phantom::small(6).slice(7).file);
    let names: BTreeSet<_> = all.iter().map(|instance| instance.sop.clone()).collect();
    assert_eq!(names.len(), 12);
}

#[test]
fn a_slice_has_air_bone_brain_and_noise() {
    let phantom = Phantom {
        seed: 1,
        slices: 120,
        side: 128,
    };
    let slice = phantom.slice(60);
    let pixels = stored(&slice);
    assert_eq!(pixels.len(), 128 * 128);
    assert!(pixels.iter().all(|stored| *stored < 4096));
    let share = |low: u16, high: u16| {
        let inside = pixels
            .iter()
            .filter(|stored| (low..high).contains(*stored))
            .count();
        inside as f64 / pixels.len() as f64
    };
    assert!(share(0, 100) > 0.3, "air and padding: {}", share(0, 100));
    assert!(share(1034, 1084) > 0.2, "brain: {}", share(1034, 1084));
    assert!(share(1524, 4096) > 0.02, "bone: {}", share(1524, 4096));
    let distinct: BTreeSet<_> = pixels
        .iter()
        .filter(|s| (1000..1100).contains(*s))
        .collect();
    assert!(
        distinct.len() > 60,
        "a scanner never gives two pixels the same value by design"
    );
}

#[test]
fn a_head_is_a_clinical_study_in_size() {
    let phantom = Phantom::head(1);
    let object = opened(&phantom.slice(119));
    assert_eq!(phantom.slices, 120);
    assert_eq!(
        object.element(tags::ROWS).unwrap().to_int::<u16>().unwrap(),
        512
    );
    assert_eq!(
        object
            .element(tags::INSTANCE_NUMBER)
            .unwrap()
            .to_int::<u16>()
            .unwrap(),
        120
    );
    assert_eq!(
        object
            .element(tags::PIXEL_DATA)
            .unwrap()
            .to_bytes()
            .unwrap()
            .len(),
        524_288
    );
}

#[test]
fn oddities_are_what_they_say() {
    let odd = oddities(3);
    let syntaxes: BTreeSet<_> = odd.iter().map(|i| i.transfer_syntax.as_str()).collect();
    assert_eq!(
        syntaxes,
        BTreeSet::from([
            "1.2.840.10008.1.2",
            "1.2.840.10008.1.2.1",
            "1.2.840.10008.1.2.2"
        ])
    );
    assert_eq!(odd.iter().filter(|i| i.file.len() % 2 == 1).count(), 1);
    let classes: BTreeSet<_> = odd.iter().map(|i| i.sop_class.as_str()).collect();
    assert_eq!(classes.len(), 2);
    let names: BTreeSet<_> = odd.iter().map(|i| i.sop.clone()).collect();
    assert_eq!(names.len(), odd.len());
}
