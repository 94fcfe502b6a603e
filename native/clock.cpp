#include "clock.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace rowwise {

namespace {
constexpr double kRemainder = 1.0 / (1 << 26);  // of the movement: below float32 rounding
constexpr double kLargest = 1e30;               // of the coefficients, which become float32
}  // namespace

Powers::Powers(double base) : low_(256), high_(256) {
    for (int i = 0; i < 256; ++i) {
        low_[i] = std::pow(base, i);
        high_[i] = std::pow(base, i * 256.0);
    }
}

RunningProduct RunningProduct::times(double factor) const {
    RunningProduct product;
    int exponent = 0;
    product.mantissa_ = std::frexp(mantissa_ * factor, &exponent);
    product.exponent_ = exponent_ + exponent;
    return product;
}

double RunningProduct::over(const RunningProduct& earlier) const {
    // Past these exponents the quotient is 0 or infinity in any case.
    const int64_t exponent = std::clamp<int64_t>(exponent_ - earlier.exponent_, -3000, 3000);
    return std::ldexp(mantissa_ / earlier.mantissa_, static_cast<int>(exponent));
}

Clock::Clock(const LagParams& params)
    : growth_(params.growth), terms_(params.terms), unbounded_(params.unbounded),
      horizon_(params.horizon),
      expands_(std::isfinite(params.ratio) && std::isfinite(params.growth)),
      ratio_powers_(params.ratio) {
    if (terms_ != 0 && terms_ != 1 && terms_ != kTerms)
        throw std::invalid_argument("terms must be 0, 1 or " + std::to_string(kTerms));
    if (horizon_ < 1 || horizon_ > kMostSteps)
        throw std::invalid_argument("horizon must be 1 to " + std::to_string(kMostSteps) +
                                    ", not " + std::to_string(horizon_));
    if (params.slot_decay.size() > kSlots)
        throw std::invalid_argument("a rule has at most " + std::to_string(kSlots) + " slots");
    for (const double base : params.slot_decay) slot_decay_.emplace_back(base);
    horizon_sums_.resize(std::size_t{horizon_} + 1);
    recent_.resize(std::size_t{horizon_} + 1);
    for (uint32_t k = 0; k <= horizon_; ++k) count_missed(recent_[k], k);
    restart();
}

void Clock::restart() {
    now_ = 0;
    decays_ = false;
    steps_.assign(1, {0, 1, 0});
    decay_.assign(1, {});
    total_.assign(1, 0.0);
    closed_.clear();
}

void Clock::count_missed(LaggedUpdate& lag, uint32_t k) const {
    lag.missed = k;
    for (int i = 0; i < kSlots; ++i)
        lag.slot_decay[i] = i < static_cast<int>(slot_decay_.size()) && k > 0
                                ? static_cast<float>(slot_decay_[i](k))
                                : 1.0f;
}

void Clock::write(LaggedUpdate& lag, double decay, double tail, const Coefficients& c) const {
    lag.last_scale = static_cast<float>(steps_[now_].scale);
    lag.epsilon_factor = static_cast<float>(steps_[now_ - lag.missed + 1].epsilon_factor);
    lag.decay_factor = static_cast<float>(decay);
    if (terms_ != kTerms) {
        lag.coefficients[0] = static_cast<float>(c.c[0] * tail);
        return;
    }
    const bool usable = expands_ && c.c[kTerms] < kLargest;
    for (int n = 0; n < kTerms; n += 2) {
        lag.coefficients[n] = usable ? static_cast<float>(c.c[n] * tail) : 0.0f;
        lag.coefficients[n + 1] = usable ? static_cast<float>(-c.c[n + 1] * tail) : 0.0f;
    }
    static_assert(kTerms == 8, "the bound is y^8 C_8 <= kRemainder C_0");
    if (!usable)
        lag.y_max = -1;
    else if (c.c[kTerms] > kRemainder * c.c[0])
        lag.y_max =
            static_cast<float>(std::sqrt(std::sqrt(std::sqrt(kRemainder * c.c[0] / c.c[kTerms]))));
    else
        lag.y_max = kAnyY;
}

void Clock::push(const StepRecord& step) {
    ++now_;
    steps_.push_back(step);
    decay_.push_back(decay_.back().times(step.decay_factor));
    if (unbounded_) total_.push_back(total_.back() * step.decay_factor + step.scale);
    decays_ = decays_ || step.decay_factor != 1.0;
}

void Clock::add_within_horizon(uint32_t step, uint32_t first) {
    const auto [scale, factor, epsilon_factor] = steps_[step];
    const double g = growth_ * epsilon_factor / steps_[step - 1].epsilon_factor;
    // Each last step misses one more, so that the sums move up by one, the longest first.
    for (uint32_t k = std::min(step - first, horizon_); k > 0; --k) {
        const Sum& before = horizon_sums_[k - 1];
        Sum& sum = horizon_sums_[k];
        sum.decay = before.decay * factor;
        if (terms_ == 0) continue;
        const double term = ratio_powers_(k) * scale;
        if (terms_ == 1) {
            sum.terms.c[0] = before.terms.c[0] * factor + term;
            continue;
        }
        const double x = k > 1 ? g * before.x + (g - 1) : growth_ - 1, square = x * x;
        double powers[kTerms + 1] = {term, term * x};  // term x^n
        for (int n = 2; n <= kTerms; ++n) powers[n] = powers[n - 2] * square;
        for (int n = 0; n <= kTerms; ++n) sum.terms.c[n] = before.terms.c[n] * factor + powers[n];
        sum.x = x;
    }
}

void Clock::refresh_recent() {
    const uint32_t reach = std::min(now_, horizon_);
    for (uint32_t k = 1; k <= reach; ++k)
        write(recent_[k], horizon_sums_[k].decay, 1.0, horizon_sums_[k].terms);
}

void Clock::advance(const StepRecord& step) {
    push(step);
    add_within_horizon(now_, 0);
    refresh_recent();
    // A row at the horizon's far end gains nothing from later steps but their weight decay.
    if (now_ >= horizon_ && terms_ && !unbounded_) closed_.push_back(horizon_sums_[horizon_].terms);
}

StepHistory Clock::history() const {
    StepHistory history;
    history.steps.assign(steps_.begin() + 1, steps_.end());
    history.closed.reserve(closed_.size() * (kTerms + 1));
    for (const Coefficients& c : closed_)
        history.closed.insert(history.closed.end(), c.c, c.c + kTerms + 1);
    return history;
}

void Clock::restore(const StepHistory& history) {
    const std::size_t steps = history.steps.size(), numbers = history.closed.size();
    if (steps > kMostSteps) throw std::invalid_argument("a clock remembers at most 65535 steps");
    const bool closes = terms_ && !unbounded_ && steps >= horizon_;
    if (numbers != (closes ? steps - horizon_ + 1 : 0) * (kTerms + 1))
        throw std::invalid_argument("the clock's coefficients do not fit its steps");
    restart();
    for (const StepRecord& step : history.steps) push(step);
    closed_.resize(numbers / (kTerms + 1));
    for (std::size_t i = 0; i < numbers; ++i)
        closed_[i / (kTerms + 1)].c[i % (kTerms + 1)] = history.closed[i];
    const uint32_t first = now_ - std::min(now_, horizon_);
    for (uint32_t step = first + 1; step <= now_; ++step) add_within_horizon(step, first);
    refresh_recent();
}

double Clock::decay_since(uint32_t step) const {
    // A product of 0 is not divided by: a step with such a factor is the only one that a row can
    // have missed.
    return decays_ && step != now_ ? decay_[now_].over(decay_[step]) : 1.0;
}

LaggedUpdate Clock::since(uint32_t last_step) const {
    const uint32_t k = now_ - last_step;
    if (k <= horizon_) return recent_[k];
    if (last_step > now_) return recent_[0];  // only a damaged file's rows say so
    LaggedUpdate lag;
    count_missed(lag, k);
    Coefficients c;
    double tail = 1;
    if (unbounded_) {
        c.c[0] = total_[now_] - decay_since(last_step) * total_[last_step];
    } else if (terms_) {
        c = closed_[last_step];
        tail = decay_since(last_step + horizon_);
    }
    write(lag, decay_since(last_step), tail, c);
    return lag;
}

int64_t Clock::replay_terms(uint32_t last_step, Term* terms) const {
    if (last_step > now_) return 0;
    const uint32_t reach = std::min(now_ - last_step, horizon_);
    for (uint32_t j = 1; j <= reach; ++j)
        terms[j - 1] = {steps_[last_step + j].scale * decay_since(last_step + j),
                        steps_[last_step + j].epsilon_factor};
    return reach;
}

}  // namespace rowwise
