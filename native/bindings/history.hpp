// The steps of a clock as NumPy's arrays.
#pragma once
#include <algorithm>
#include <stdexcept>
#include <utility>

#include "arrays.hpp"
#include "clock.hpp"

namespace rowwise {

using History = std::pair<NewMatrix<double>, NewVector<double>>;
using GivenHistory = std::pair<Matrix<const double>, Vector<const double>>;

inline History arrays_of(const StepHistory& history) {
    auto steps = new_array<double>(history.steps.size(), std::size_t{3});
    double* out = steps.data();
    for (const StepRecord& step : history.steps)
        for (const double number : {step.scale, step.decay_factor, step.epsilon_factor})
            *out++ = number;
    auto closed = new_array<double>(history.closed.size());
    std::copy(history.closed.begin(), history.closed.end(), closed.data());
    return {std::move(steps), std::move(closed)};
}

inline StepHistory history_of(const GivenHistory& given) {
    const auto& [steps, closed] = given;
    if (steps.shape(1) != 3) throw std::invalid_argument("a step of the clock is 3 numbers");
    StepHistory history;
    for (std::size_t i = 0; i < steps.shape(0); ++i) {
        const double* row = steps.data() + 3 * i;
        history.steps.push_back({row[0], row[1], row[2]});
    }
    history.closed.assign(closed.data(), closed.data() + closed.size());
    return history;
}

}  // namespace rowwise
