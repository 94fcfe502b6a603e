#include "clock.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace rowwise {

namespace {
constexpr double kRemainder = 1.0 / (1 << 26);  // of the movement: below float32 rounding
constexpr double kLargest = 1e30;                // of the coefficients, which become float32
}

Powers::Powers(double base) : low_(256), high_(256) {
    for (int i = 0; i < 256; ++i) {
        low_[i] = std::pow(base, i);
        high_[i] = std::pow(base, i * 256.0);
    }
}

Clock::Clock(double ratio, double growth, int terms, bool endless, uint32_t window,
             const std::vector<double>& slot_decay)
    : ratio_(ratio), growth_(growth), terms_(terms), endless_(endless), window_(window),
      expands_(std::isfinite(ratio) && std::isfinite(growth)) {
    for (const double base : slot_decay) slot_decay_.emplace_back(base);
    recent_.resize(std::size_t{window_} + 1);
    restart();
}

void Clock::restart() {
    now_ = 0;
    decays_ = false;
    ticks_.assign(1, {0, 1, 0});
    log_keep_.assign(1, 0.0);
    total_.assign(1, 0.0);
    closed_.clear();
    recent_[0] = Skip{};
    for (auto& decay : recent_[0].decay) decay = 1;
}

void Clock::extend(Coefficients& c, uint32_t step, double kept) const {
    const double first = ratio_ * ticks_[step].scale * kept;  // the term j = 1
    if (terms_ != kTerms) {
        c.c[0] = ratio_ * c.c[0] + first;
        return;
    }
    // The terms from before: x -> g x + (g - 1), by Pascal's triangle, and one ratio more.
    if (step < now_) {
        const double g =
            growth_ * ticks_[step + 1].epsilon_factor / ticks_[step].epsilon_factor;
        double power = ratio_;
        for (int n = 0; n <= kTerms; ++n, power *= g) c.c[n] *= power;
        for (int i = 0; i < kTerms; ++i)
            for (int n = kTerms; n > i; --n) c.c[n] += (g - 1) * c.c[n - 1];
    }
    double power = first;
    for (int n = 0; n <= kTerms; ++n, power *= growth_ - 1) c.c[n] += power;
}

void Clock::write(Skip& skip, uint32_t k, double keep, double tail, const Coefficients& c) const {
    skip.missed = k;
    skip.rate = static_cast<float>(ticks_[now_].scale);
    skip.epsilon_factor = static_cast<float>(ticks_[now_ - k + 1].epsilon_factor);
    skip.keep = static_cast<float>(keep);
    for (std::size_t i = 0; i < slot_decay_.size(); ++i)
        skip.decay[i] = static_cast<float>(slot_decay_[i](k));
    const bool usable = terms_ != kTerms || (expands_ && c.c[kTerms] < kLargest);
    for (int n = 0; n < terms_; ++n)
        skip.move[n] = usable ? static_cast<float>((n % 2 ? -1 : 1) * c.c[n] * tail) : 0.0f;
    static_assert(kTerms == 8, "the bound is y^8 C_8 <= kRemainder C_0");
    if (!usable)
        skip.y_max = -1;
    else if (terms_ == kTerms && c.c[kTerms] > kRemainder * c.c[0])
        skip.y_max = static_cast<float>(
            std::sqrt(std::sqrt(std::sqrt(kRemainder * c.c[0] / c.c[kTerms]))));
    else
        skip.y_max = kAnyY;
}

void Clock::push(const Tick& tick) {
    ++now_;
    ticks_.push_back(tick);
    log_keep_.push_back(log_keep_.back() + std::log(tick.keep));
    if (endless_) total_.push_back(total_.back() * tick.keep + tick.scale);
    decays_ = decays_ || tick.keep != 1.0;
}

Clock::Coefficients Clock::refresh_recent() {
    // Backwards from now: every stamp in the window, each from the one after it.
    Coefficients c;
    double kept = 1;
    const uint32_t reach = std::min(now_, window_);
    for (uint32_t k = 1; k <= reach; ++k) {
        const uint32_t step = now_ - k + 1;
        if (terms_) extend(c, step, kept);
        kept *= ticks_[step].keep;
        write(recent_[k], k, kept, 1.0, c);
    }
    return c;
}

void Clock::advance(const Tick& tick) {
    push(tick);
    const Coefficients last = refresh_recent();
    // The stamp at the window's far end gains nothing from later steps but their weight decay.
    if (now_ >= window_ && terms_ && !endless_) closed_.push_back(last);
}

std::vector<double> Clock::closed() const {
    std::vector<double> numbers;
    numbers.reserve(closed_.size() * (kTerms + 1));
    for (const Coefficients& c : closed_) numbers.insert(numbers.end(), c.c, c.c + kTerms + 1);
    return numbers;
}

void Clock::restore(const std::vector<Tick>& ticks, const double* closed, std::size_t numbers) {
    if (ticks.empty() || ticks.size() > std::size_t{kHorizon} + 1)
        throw std::invalid_argument("a clock remembers at most 65535 steps");
    const std::size_t steps = ticks.size() - 1;
    const bool closes = terms_ && !endless_ && steps >= window_;
    if (numbers != (closes ? steps - window_ + 1 : 0) * (kTerms + 1))
        throw std::invalid_argument("the clock's coefficients do not fit its steps");
    restart();
    for (std::size_t i = 1; i < ticks.size(); ++i) push(ticks[i]);
    closed_.resize(numbers / (kTerms + 1));
    for (std::size_t i = 0; i < numbers; ++i)
        closed_[i / (kTerms + 1)].c[i % (kTerms + 1)] = closed[i];
    refresh_recent();
}

double Clock::kept_since(uint32_t step) const {
    // The logarithm of a factor of 0 or below does not exist, and is not asked for: such a step
    // is the only one that any row has missed.
    return decays_ && step != now_ ? std::exp(log_keep_[now_] - log_keep_[step]) : 1.0;
}

Skip Clock::since(uint32_t stamp) const {
    const uint32_t k = now_ - stamp;
    if (k <= window_) return recent_[k];
    if (stamp > now_) return recent_[0];  // only a damaged file's rows say so
    Skip skip;
    Coefficients c;
    double tail = 1;
    if (endless_) {
        c.c[0] = total_[now_] - kept_since(stamp) * total_[stamp];
    } else if (terms_) {
        c = closed_[stamp];
        tail = kept_since(stamp + window_);
    }
    write(skip, k, kept_since(stamp), tail, c);
    return skip;
}

int64_t Clock::replay_terms(uint32_t stamp, Term* terms) const {
    if (stamp > now_) return 0;
    const uint32_t reach = std::min(now_ - stamp, window_);
    for (uint32_t j = 1; j <= reach; ++j)
        terms[j - 1] = {ticks_[stamp + j].scale * kept_since(stamp + j),
                        ticks_[stamp + j].epsilon_factor};
    return reach;
}

}  // namespace rowwise
