//! The one notion: x_t = α(t) x_0 + σ(t) ε with ε ~ N(0, I), and everything that follows from it at one time.
//!
//! | quantity | formula |
//! |---|---|
//! | log-SNR | 2 ln(α/σ) |
//! | forward SDE dx = f x dt + g dw | f = α̇/α, g² = 2σσ̇ − 2fσ² |
//! | transition q(x_t given x_s), s cleaner | mean ratio α_t/α_s, variance σ_t² − (α_t/α_s)² σ_s² |
//! | posterior q(x_s given x_t, x_0) | variance σ_s² (1 − (α_t σ_s / α_s σ_t)²) |
//! | prior at the noisiest level | N(0, σ_T² + α_T² Var\[data\]) |
//! | probability-flow velocity | α̇ x̂_0 + σ̇ ε̂ |
//!
//! Song et al. 2021, "Score-Based Generative Modeling through SDEs", eq. 29; Kingma et al. 2021, "Variational Diffusion
//! Models", appendix A, for the transition and the posterior in terms of (α, σ).

/// α, σ and their time derivatives at one time.
///
/// At α = 0 (the noisy end of the cosine and rectified schedules) [`drift`](Self::drift) and
/// [`noise_to_signal`](Self::noise_to_signal) are infinite; at σ = 0 (the clean end) the score is. Code that divides by
/// either says so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kernel {
    /// Time, growing with noise.
    pub t: f64,
    /// Signal scale α, in \[0, 1\].
    pub alpha: f64,
    /// Noise standard deviation σ, at least 0.
    pub sigma: f64,
    /// dα/dt.
    pub d_alpha: f64,
    /// dσ/dt.
    pub d_sigma: f64,
}

impl Kernel {
    /// No noise at all: α = 1, σ = 0, where every sampling run ends. It belongs to no time of a schedule that never
    /// reaches σ = 0 (VE), so its `t` and derivatives are not numbers and only α and σ may be used.
    pub const CLEAN: Self = Self { t: f64::NAN, alpha: 1.0, sigma: 0.0, d_alpha: f64::NAN, d_sigma: f64::NAN };

    /// The level of x/α, which has signal 1 and noise σ/α: D(x; α, σ) = D(x/α; 1, σ/α). Its time and slopes are not those of a schedule.
    #[must_use]
    pub fn of_scaled(&self) -> Self {
        Self { alpha: 1.0, sigma: self.noise_to_signal(), ..*self }
    }

    /// Whether there is no noise left (σ = 0).
    pub fn is_clean(&self) -> bool {
        self.sigma == 0.0
    }

    /// ln(α²/σ²): +∞ when clean, −∞ without signal.
    pub fn log_snr(&self) -> f64 {
        2.0 * (self.alpha.ln() - self.sigma.ln())
    }

    /// σ/α, the noise level of x/α; infinite without signal.
    pub fn noise_to_signal(&self) -> f64 {
        self.sigma / self.alpha
    }

    /// arctan(σ/(α σ_d)), the time of TrigFlow, from 0 to π/2 (Lu and Song 2024, arXiv:2410.11081).
    pub fn angle(&self, sigma_data: f64) -> f64 {
        (self.noise_to_signal() / sigma_data).atan()
    }

    /// f = α̇/α of the forward SDE dx = f x dt + g dw.
    pub fn drift(&self) -> f64 {
        self.d_alpha / self.alpha
    }

    /// g² = 2σσ̇ − 2fσ² of the forward SDE.
    pub fn diffusion_squared(&self) -> f64 {
        2.0 * self.sigma * (self.d_sigma - self.drift() * self.sigma)
    }

    /// q(x_self given x_cleaner): the factor on the mean, α_t/α_s, and the variance σ_t² − (α_t/α_s)² σ_s².
    pub fn transition_from(&self, cleaner: &Self) -> (f64, f64) {
        let ratio = self.alpha / cleaner.alpha;
        let leftover = ratio * cleaner.sigma;
        // As a product of sum and difference, so that two close levels do not cancel.
        (ratio, (self.sigma - leftover) * (self.sigma + leftover))
    }

    /// Variance of q(x_cleaner given x_self, x_0): σ_s² (1 − (α_t σ_s / α_s σ_t)²).
    pub fn posterior_variance(&self, cleaner: &Self) -> f64 {
        let (_, variance) = self.transition_from(cleaner);
        variance * (cleaner.sigma / self.sigma).powi(2)
    }

    /// Standard deviation of the Gaussian that stands in for x_t at the noisiest level, √(σ² + α² Var\[data\]).
    pub fn prior_std(&self, data_variance: f64) -> f64 {
        (self.sigma.powi(2) + self.alpha.powi(2) * data_variance).sqrt()
    }
}
