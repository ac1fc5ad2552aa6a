//! The head itself: Hounsfield units at a point of space, before the scanner adds its noise.
//!
//! Millimetres from the centre of the scan: x to the patient's left, y to the back, z upwards from
//! the base of the skull. Nothing here is measured on a person; the shapes are ellipsoids and
//! smooth noise, close enough to a head that compressors, windows and eyes meet what they expect.

use crate::seeded::{mix, unit_f32};

/// Height that the scan covers, base of the skull to just above the vertex.
pub(super) const HEIGHT_MM: f32 = 150.0;

/// Side of the reconstructed square.
pub(super) const FIELD_MM: f32 = 230.0;

const AIR: f32 = -1000.0;
const FAT: f32 = -95.0;
const SKIN: f32 = 45.0;
const CSF: f32 = 7.0;
const WHITE: f32 = 28.0;
const GREY: f32 = 38.0;
const BLEED: f32 = 68.0;
const OEDEMA: f32 = 20.0;
const OUTER_TABLE: f32 = 1450.0;
const DIPLOE: f32 = 650.0;
const INNER_TABLE: f32 = 1300.0;
const PETROUS: f32 = 1500.0;
const DURA: f32 = 50.0;

/// One head, different for each seed.
#[derive(Debug, Clone)]
pub(super) struct Head {
    seed: u64,
    half_width: f32,
    half_length: f32,
    shift: (f32, f32),
    turn: (f32, f32),
    bleed_side: f32,
    bleed_radius: f32,
    ventricle: f32,
}

impl Head {
    pub(super) fn new(seed: u64) -> Self {
        let draw =
            |which: u64, low: f32, high: f32| low + (high - low) * unit_f32(mix(seed ^ mix(which)));
        let turn = draw(5, -0.09, 0.09);
        Self {
            seed,
            half_width: draw(1, 72.0, 79.0),
            half_length: draw(2, 91.0, 98.0),
            shift: (draw(3, -4.0, 4.0), draw(4, -8.0, -3.0)),
            turn: (turn.cos(), turn.sin()),
            bleed_side: if draw(6, 0.0, 1.0) < 0.5 { -1.0 } else { 1.0 },
            bleed_radius: draw(7, 9.0, 16.0),
            ventricle: draw(8, 0.85, 1.25),
        }
    }

    /// Hounsfield units at a point; `blur` is the width over which tissues mix at a border.
    pub(super) fn at(&self, x: f32, y: f32, z: f32, blur: f32) -> f32 {
        let (across, along) = (x - self.shift.0, y - self.shift.1);
        let hx = across * self.turn.0 + along * self.turn.1;
        let hy = along * self.turn.0 - across * self.turn.1;
        let depth = self.depth(hx, hy, z);
        if depth < -2.0 {
            return table(x, y, blur);
        }
        let skull = 4.5 + 3.0 * self.noise(hx, hy, z, 40.0, 1);
        let scalp = 5.0 + 1.5 * self.noise(hx, hy, z, 55.0, 2);
        let inner = scalp + skull;
        let marrow = DIPLOE + 250.0 * self.noise(hx, hy, z, 4.0, 3);
        let layers = [
            (0.0, SKIN),
            (1.6, FAT),
            (scalp, OUTER_TABLE),
            (scalp + 0.35 * skull, marrow),
            (scalp + 0.7 * skull, INNER_TABLE),
            (inner, CSF),
        ];
        let mut hu = AIR;
        for (border, tissue) in layers {
            hu = mixed(hu, tissue, (depth - border) / blur);
        }
        if depth > inner {
            hu = mixed(
                hu,
                self.brain(hx, hy, z, depth - inner, blur),
                (depth - inner - 1.2) / blur,
            );
        }
        if z < 45.0 {
            self.base(hu, hx, hy, z, depth, blur)
        } else {
            hu
        }
    }

    /// Millimetres below the skin, along the ray to the middle; negative outside.
    fn depth(&self, x: f32, y: f32, z: f32) -> f32 {
        let rise = if z > 60.0 {
            (z - 60.0) / 86.0
        } else {
            (60.0 - z) / 115.0
        };
        let scale = (1.0 - rise * rise).max(0.0).sqrt();
        if scale < 0.02 {
            return -10.0;
        }
        // The forehead is narrower than the back of the head.
        let width = self.half_width * (1.0 + 0.08 * (y / self.half_length).clamp(-1.0, 1.0));
        let ratio = ((x / width).powi(2) + (y / self.half_length).powi(2)).sqrt() / scale;
        let radius = (x * x + y * y).sqrt();
        let reach = if ratio > 0.05 {
            radius / ratio
        } else {
            self.half_width * scale
        };
        (1.0 - ratio) * reach
    }

    fn brain(&self, x: f32, y: f32, z: f32, below_skull: f32, blur: f32) -> f32 {
        // Folds: the zero surface of a smooth noise is a sulcus, what lies along it is cortex.
        let fold = self.noise(x, y, z, 13.0, 4).abs();
        let cortex = 1.0 - (below_skull / 22.0).clamp(0.0, 1.0);
        let mut hu = WHITE + 1.5 * self.noise(x, y, z, 20.0, 5);
        hu = mixed(hu, GREY, (0.55 * cortex - fold) * 12.0 / blur + 0.5);
        hu = mixed(hu, CSF, (0.09 * cortex - fold) * 14.0 / blur);
        for side in [-1.0, 1.0] {
            let sx = x * side;
            let nucleus = ellipsoid([sx - 13.0, y - 8.0, z - 66.0], [9.0, 14.0, 13.0]);
            hu = mixed(hu, GREY, nucleus / blur);
            // Body and horns of the lateral ventricle: a curved, flattened tube.
            let bend = 6.0 + 0.012 * (y + 4.0).powi(2);
            let tube = [sx - bend, y + 4.0, z - 80.0 - 0.006 * y * y];
            let hollow = ellipsoid(tube, [4.5 * self.ventricle, 38.0, 8.5 * self.ventricle]);
            hu = mixed(hu, CSF, hollow / blur);
            let plexus = ellipsoid([sx - 22.0, y - 26.0, z - 74.0], [2.0, 2.5, 3.0]);
            hu = mixed(hu, 160.0, plexus / blur);
        }
        hu = mixed(
            hu,
            CSF,
            ellipsoid([x, y - 4.0, z - 64.0], [2.2, 13.0, 10.0]) / blur,
        );
        hu = mixed(
            hu,
            CSF,
            ellipsoid([x, y - 42.0, z - 30.0], [6.0, 6.0, 9.0]) / blur,
        );
        hu = mixed(
            hu,
            210.0,
            ellipsoid([x, y - 22.0, z - 68.0], [1.6, 1.9, 2.0]) / blur,
        );
        if z > 78.0 || y < -38.0 {
            hu = mixed(hu, DURA, (0.9 - x.abs()) / blur);
        }
        let rough = 2.5 * self.noise(x, y, z, 7.0, 6);
        let r = self.bleed_radius;
        let clot = [x * self.bleed_side - 36.0, y + 6.0, z - 76.0];
        hu = mixed(
            hu,
            OEDEMA,
            (ellipsoid(clot, [r + 6.0, r + 7.0, r + 5.0]) + rough) / (3.0 * blur),
        );
        mixed(
            hu,
            BLEED,
            (ellipsoid(clot, [r, 1.25 * r, 0.9 * r]) + rough) / blur,
        )
    }

    /// Petrous bones, air cells, sinuses and eyes, which only the low slices show.
    fn base(&self, mut hu: f32, x: f32, y: f32, z: f32, depth: f32, blur: f32) -> f32 {
        if depth < 4.0 {
            return hu;
        }
        for side in [-1.0, 1.0] {
            let sx = x * side;
            // The pyramid runs obliquely, forwards and inwards.
            let (u, v) = (
                0.77 * (sx - 38.0) + 0.64 * (y - 22.0),
                0.77 * (y - 22.0) - 0.64 * (sx - 38.0),
            );
            let pyramid = ellipsoid([u, v, z - 16.0], [30.0, 10.0, 14.0]);
            hu = mixed(hu, PETROUS, pyramid / blur);
            let cells = ellipsoid([sx - 54.0, y - 36.0, z - 10.0], [11.0, 12.0, 16.0]);
            if cells > 0.0 {
                let wall = self.noise(x, y, z, 4.5, 7);
                hu = mixed(PETROUS * 0.5, -900.0, (wall + 0.15) * 4.0 / blur);
            }
            let eye = [sx - 31.0, y + 71.0, z - 8.0];
            hu = mixed(hu, FAT, ellipsoid(eye, [18.0, 20.0, 17.0]) / blur);
            hu = mixed(hu, 12.0, ellipsoid(eye, [12.0, 12.0, 12.0]) / blur);
            hu = mixed(
                hu,
                AIR,
                ellipsoid([sx - 9.0, y + 60.0, z - 4.0], [6.0, 17.0, 15.0]) / blur,
            );
            hu = mixed(
                hu,
                AIR,
                ellipsoid([sx - 8.0, y + 30.0, z - 8.0], [8.0, 9.0, 9.0]) / blur,
            );
        }
        mixed(
            hu,
            AIR,
            ellipsoid([x - 3.0, y + 84.0, z - 30.0], [16.0, 4.0, 11.0]) / blur,
        )
    }

    /// Smooth noise of -1..1 whose features are `size` millimetres wide.
    fn noise(&self, x: f32, y: f32, z: f32, size: f32, which: u64) -> f32 {
        let (ix, fx) = lattice(x / size);
        let (iy, fy) = lattice(y / size);
        let (iz, fz) = lattice(z / size);
        let key = self.seed ^ (which << 56);
        let corner = |dx: i64, dy: i64, dz: i64| {
            let place =
                ((ix + dx) & 0xFFFF) | (((iy + dy) & 0xFFFF) << 16) | (((iz + dz) & 0xFFFF) << 32);
            unit_f32(mix(key ^ place.cast_unsigned())) * 2.0 - 1.0
        };
        let edge = |dy, dz| blend(corner(0, dy, dz), corner(1, dy, dz), fx);
        let face = |dz| blend(edge(0, dz), edge(1, dz), fy);
        blend(face(0), face(1), fz)
    }
}

/// The head rest: a thin curved shell with foam in it.
fn table(x: f32, y: f32, blur: f32) -> f32 {
    if y < 30.0 {
        return AIR;
    }
    let radius = (x * x + (y + 4.0).powi(2)).sqrt();
    let foam = mixed(AIR, -955.0, (radius - 103.0) / blur);
    let shell = mixed(foam, -560.0, (radius - 109.0) / blur);
    mixed(shell, AIR, (radius - 110.6) / blur)
}

/// Roughly the millimetres below the surface of an ellipsoid; negative outside.
fn ellipsoid(from_centre: [f32; 3], half_axes: [f32; 3]) -> f32 {
    let ratio = from_centre
        .iter()
        .zip(half_axes)
        .map(|(distance, half)| (distance / half).powi(2))
        .sum::<f32>()
        .sqrt();
    let least = half_axes[0].min(half_axes[1]).min(half_axes[2]);
    (1.0 - ratio) * least
}

/// Goes from `outside` to `inside` as `way` goes from -0.5 to 0.5.
fn mixed(outside: f32, inside: f32, way: f32) -> f32 {
    outside + (inside - outside) * (way + 0.5).clamp(0.0, 1.0)
}

fn blend(a: f32, b: f32, way: f32) -> f32 {
    let eased = way * way * (3.0 - 2.0 * way);
    a + (b - a) * eased
}

fn lattice(place: f32) -> (i64, f32) {
    let floor = place.floor();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a head is some hundred millimetres wide"
    )]
    let cell = floor as i64;
    (cell, place - floor)
}
