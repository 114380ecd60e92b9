//! Distributions of pixels: probabilities of all values sum to one, draws follow them, and two levels are Bernoulli laws in closed form.

use stein::{
    Keys, Purpose, Tensor,
    objective::Pixels,
    pixel::{LogisticMixture, PixelDistribution, PixelLikelihood},
    rows::host,
};

use crate::{assert_close, tensor};

const MIXTURE: PixelLikelihood = PixelLikelihood::LogisticMixture { components: 2 };

fn distribution(likelihood: PixelLikelihood, channels: usize, levels: u32) -> PixelDistribution {
    PixelDistribution::new(likelihood, channels, Pixels { levels, ..Pixels::default() }).unwrap()
}

/// All there are with so many values that they can be counted.
fn all() -> Vec<PixelDistribution> {
    vec![
        distribution(MIXTURE, 1, 2),
        distribution(MIXTURE, 1, 17),
        distribution(MIXTURE, 1, 256),
        distribution(MIXTURE, 3, 4),
        distribution(PixelLikelihood::Categorical {}, 1, 17),
        distribution(PixelLikelihood::Categorical {}, 3, 4),
        distribution(PixelLikelihood::Bernoulli {}, 3, 2),
    ]
}

/// Numbers of the distribution of one pixel.
fn numbers(of: &PixelDistribution) -> Vec<f64> {
    Keys::range(3, 0, 1).normal(Purpose::Point, 0, of.numbers())
}

/// Every value a pixel can have, `[values, channels]`, the first channel slowest.
fn values(of: &PixelDistribution) -> Tensor<2> {
    let Pixels { levels, low, high } = *of.pixels();
    let (levels, channels) = (levels as usize, of.channels());
    let value = |level: usize| low + (high - low) * level as f64 / (levels - 1) as f64;
    let digits = |pixel: usize| (0..channels).rev().map(move |place| pixel / levels.pow(place as u32) % levels);
    tensor(&(0..levels.pow(channels as u32)).flat_map(digits).map(value).collect::<Vec<_>>(), channels)
}

fn probabilities(of: &PixelDistribution) -> Vec<f64> {
    let x = values(of);
    let numbers = tensor(&numbers(of).repeat(x.dims()[0]), of.numbers());
    host(&of.log_probability(x, numbers).unwrap()).into_iter().map(f64::exp).collect()
}

#[test]
fn the_probabilities_of_all_values_sum_to_one() {
    for of in all() {
        // A mixture is off by less than 1e-5 in a bin that is that small.
        let tolerance = 1e-12 + if of.pixels().levels > 2 { 1e-5 } else { 0.0 };
        assert_close(probabilities(&of).iter().sum(), 1.0, tolerance, format!("{of:?}"));
    }
}

#[test]
fn draws_follow_the_probabilities() {
    const DRAWS: usize = 50_000;
    for of in all() {
        let numbers = tensor(&numbers(&of).repeat(DRAWS), of.numbers());
        let drawn = of.sample(numbers, &Keys::range(5, 0, DRAWS), 0).unwrap();
        let (drawn, values) = (host(&drawn), host(&values(&of)));
        let mut counts = vec![0; values.len() / of.channels()];
        for pixel in drawn.chunks(of.channels()) {
            let same = |value: &[f64]| value.iter().zip(pixel).all(|(a, b)| (a - b).abs() < 1e-12);
            counts[values.chunks(of.channels()).position(same).expect("a value on the grid")] += 1;
        }
        for (count, p) in counts.into_iter().zip(probabilities(&of)) {
            // Five standard errors of a share, and what a rare value may have by chance.
            let bound = 5.0 * (p / DRAWS as f64).sqrt() + 10.0 / DRAWS as f64;
            assert!((f64::from(count) / DRAWS as f64 - p).abs() < bound, "{of:?}: {count} of {DRAWS} for {p}");
        }
    }
}

#[test]
fn two_levels_are_bernoulli_laws() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let ln = |x: [f64; 2], numbers: &[f64], likelihood| {
        let numbers = tensor(&numbers.repeat(2), numbers.len());
        host(&distribution(likelihood, 1, 2).log_probability(tensor(&x, 1), numbers).unwrap())
    };
    let bernoulli = ln([1.0, -1.0], &[0.7], PixelLikelihood::Bernoulli {});
    assert_close(bernoulli[0], sigmoid(0.7).ln(), 1e-14, "the upper");
    assert_close(bernoulli[1], sigmoid(-0.7).ln(), 1e-14, "the lower");
    // Logits 0 and ln 3; means 0.4 and −0.2; ln s −1 and 0.5: the upper level begins at 0.
    let mixture = ln([1.0, -1.0], &[0.0, 3f64.ln(), 0.4, -0.2, -1.0, 0.5], MIXTURE);
    let upper = 0.25 * sigmoid(0.4 * 1f64.exp()) + 0.75 * sigmoid(-0.2 * (-0.5f64).exp());
    assert_close(mixture[0], upper.ln(), 1e-14, "the upper of a mixture");
    assert_close(mixture[1], (1.0 - upper).ln(), 1e-14, "the lower of a mixture");
}

#[test]
fn a_narrow_component_is_a_density_times_a_bin() {
    // ln s = −9 counts as −7, and the mean lies four levels away.
    let of = distribution(PixelLikelihood::LogisticMixture { components: 1 }, 1, 256);
    let (x, mean, s) = (-1.0 + 2.0 * 100.0 / 255.0, -1.0 + 2.0 * 104.0 / 255.0, (-7f64).exp());
    let found = host(&of.log_probability(tensor(&[x], 1), tensor(&[0.0, mean, -9.0], 3)).unwrap())[0];
    let z = (x - mean) / s;
    let density = z - s.ln() - 2.0 * z.exp().ln_1p();
    assert_close(found, density - 127.5f64.ln(), 1e-12, "density and bin");
}

#[test]
fn a_draw_is_a_function_of_its_key() {
    for of in all() {
        let numbers = numbers(&of);
        let keys = Keys::range(7, 0, 5);
        let batch = of.sample(tensor(&numbers.repeat(10), 2 * of.numbers()), &keys, 3).unwrap();
        let alone = of.sample(tensor(&numbers.repeat(2), 2 * of.numbers()), &keys.select(&[4]), 3).unwrap();
        assert_eq!(host(&batch.narrow(0, 4, 1)), host(&alone));
    }
}

#[test]
fn drawn_at_the_ends_of_the_uniform_numbers() {
    let mixture = LogisticMixture::of(tensor(&[0.0, 0.1, -1.0].repeat(2), 3), 1);
    let drawn = mixture.draw(tensor(&[0.0, 0.0, 1.0, 1.0], 2), &Pixels::default(), true);
    assert_eq!(host(&drawn), [-1.0, 1.0]);
}

#[test]
fn what_is_no_distribution_is_refused() {
    let refused = |likelihood, channels, levels| {
        PixelDistribution::new(likelihood, channels, Pixels { levels, ..Pixels::default() }).unwrap_err().to_string()
    };
    assert!(refused(MIXTURE, 2, 256).contains("1 or 3 channels"));
    assert!(refused(PixelLikelihood::Bernoulli {}, 1, 3).contains("2 levels"));
    assert!(refused(PixelLikelihood::Categorical {}, 0, 3).contains("at least 1"));
    assert!(refused(PixelLikelihood::LogisticMixture { components: 0 }, 1, 3).contains("components"));
    let of = distribution(MIXTURE, 3, 4);
    assert!(of.log_probability(tensor(&[0.0; 4], 4), tensor(&[0.0; 20], 20)).is_err());
    assert!(of.sample(tensor(&[0.0; 20], 20), &Keys::range(0, 0, 2), 0).is_err());
}
