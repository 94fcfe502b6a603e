#include "clock.hpp"

#include <algorithm>
#include <cmath>

namespace rowwise {

namespace {
constexpr double kRemainder = 1.0 / (1 << 26);  // of the movement: below float32 rounding
}

Powers::Powers(double base) : low_(256), high_(256) {
    for (int i = 0; i < 256; ++i) {
        low_[i] = std::pow(base, i);
        high_[i] = std::pow(base, i * 256.0);
    }
}

Clock::Clock(double ratio, double growth, int terms, uint32_t window,
             const std::vector<double>& slot_decay)
    : terms_(terms), window_(window) {
    expands_ = std::isfinite(ratio) && std::isfinite(growth);
    if (expands_) {
        // T[n][i] = ratio * binom(n, i) * growth^i * (growth - 1)^(n - i)
        for (int n = 0; n <= kTerms; ++n) {
            double binomial = 1;
            for (int i = 0; i <= n; ++i) {
                shift_[n][i] =
                    ratio * binomial * std::pow(growth, i) * std::pow(growth - 1, n - i);
                binomial = binomial * (n - i) / (i + 1);
            }
        }
    }
    for (const double base : slot_decay) slot_decay_.emplace_back(base);
    recent_.resize(std::size_t{window_} + 1);
    restart();
}

void Clock::restart() {
    now_ = 0;
    decays_ = false;
    scale_.assign(1, 0.0);
    keep_.assign(1, 1.0);
    log_keep_.assign(1, 0.0);
    closed_.clear();
    recent_[0] = Skip{};
    for (auto& decay : recent_[0].decay) decay = 1;
}

void Clock::extend(Coefficients& c, double first) const {
    c.c[0] += first;
    const int last = terms_ == kTerms ? kTerms : 0;
    for (int n = last; n >= 0; --n) {  // downwards: row n needs the old entries 0..n
        double sum = 0;
        for (int i = 0; i <= n; ++i) sum += shift_[n][i] * c.c[i];
        c.c[n] = sum;
    }
}

void Clock::write(Skip& skip, uint32_t k, double keep, double tail, const Coefficients& c) const {
    skip.keep = static_cast<float>(keep);
    for (std::size_t i = 0; i < slot_decay_.size(); ++i)
        skip.decay[i] = static_cast<float>(slot_decay_[i](k));
    for (int n = 0; n < terms_; ++n)
        skip.move[n] = static_cast<float>((n % 2 ? -1 : 1) * c.c[n] * tail);
    skip.replay = terms_ == kTerms && (!expands_ || c.c[kTerms] > kRemainder * std::abs(c.c[0]));
}

void Clock::advance(double scale, double keep) {
    ++now_;
    scale_.push_back(scale);
    keep_.push_back(keep);
    log_keep_.push_back(log_keep_.back() + std::log(keep));
    decays_ = decays_ || keep != 1.0;

    // Backwards from now: every stamp in the window, each from the one after it.
    Coefficients c;
    double kept = 1;
    const uint32_t reach = std::min(now_, window_);
    for (uint32_t k = 1; k <= reach; ++k) {
        const uint32_t step = now_ - k + 1;
        if (terms_) extend(c, scale_[step] * kept);
        kept *= keep_[step];
        write(recent_[k], k, kept, 1.0, c);
    }
    // The stamp at the window's far end gains nothing from later steps but their weight decay.
    if (now_ >= window_ && terms_) closed_.push_back(c);
}

double Clock::kept_since(uint32_t step) const {
    // The logarithm of a factor of 0 or below does not exist, and is not asked for: such a step
    // is the only one that any row has missed.
    return decays_ && step != now_ ? std::exp(log_keep_[now_] - log_keep_[step]) : 1.0;
}

Skip Clock::since(uint32_t stamp) const {
    const uint32_t k = now_ - stamp;
    if (k <= window_) return recent_[k];
    Skip skip;
    write(skip, k, kept_since(stamp), kept_since(stamp + window_),
          terms_ ? closed_[stamp] : Coefficients{});
    return skip;
}

int64_t Clock::replay_terms(uint32_t stamp, double* term) const {
    const uint32_t reach = std::min(now_ - stamp, window_);
    for (uint32_t j = 1; j <= reach; ++j) term[j - 1] = scale_[stamp + j] * kept_since(stamp + j);
    return reach;
}

}  // namespace rowwise
