// The device's kernels as loops over their items and lanes: the very source that a GPU runs, where
// there is none.
#define ROWWISE_ISA serial
#include <cstring>
#include <stdexcept>

#include "device/engine.hpp"
#include "device/kernels.hpp"

namespace rowwise {

namespace {

// The i-th of 0..count-1, each once, in an order of its own.
class Sequence {
  public:
    Sequence(const std::string& order, int64_t count) : count_(count) {
        if (order == "backwards") {
            factor_ = count - 1;
            offset_ = count - 1;
        } else if (order == "shuffled") {
            factor_ = 982451653 % count;  // a prime
            while (divisor(factor_, count) != 1) ++factor_;
            offset_ = count / 3;
        }
    }
    int64_t operator()(int64_t i) const {
        return static_cast<int64_t>((static_cast<unsigned __int128>(i) * factor_ + offset_) %
                                    count_);
    }

  private:
    static int64_t divisor(int64_t a, int64_t b) { return b == 0 ? a : divisor(b, a % b); }

    int64_t count_;
    int64_t factor_ = 1, offset_ = 0;
};

template <class Kernel>
void run(const std::string& order, const Launch& launch, const DeviceCall& call) {
    const int64_t count = launch.items * launch.lanes;
    if (count == 0) return;
    const Sequence sequence(order, count);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t thread = sequence(i);
        Kernel::run(call, thread / launch.lanes, static_cast<int>(thread % launch.lanes),
                    launch.lanes);
    }
}

template <class R>
void run_kernel(const std::string& order, const Launch& launch, const DeviceCall& call) {
    switch (launch.kernel) {
#define ROWWISE_CASE(name, Kernel)                                          \
    case DeviceKernel::name:                                                \
        return launch.wide ? run<serial::Kernel<R, 4>>(order, launch, call) \
                           : run<serial::Kernel<R, 1>>(order, launch, call);
        ROWWISE_ROW_KERNELS(ROWWISE_CASE)
#undef ROWWISE_CASE
#define ROWWISE_CASE(name, Kernel) \
    case DeviceKernel::name: return run<serial::Kernel<R>>(order, launch, call);
        ROWWISE_OTHER_KERNELS(ROWWISE_CASE)
#undef ROWWISE_CASE
    }
}

void run_family(const std::string& order, const Launch& launch, const DeviceCall& call) {
    using namespace serial;
    switch (launch.family) {
#define ROWWISE_CASE(name, ...) \
    case Family::name: return run_kernel<__VA_ARGS__>(order, launch, call);
        ROWWISE_FAMILIES(ROWWISE_CASE)
#undef ROWWISE_CASE
    }
}

class SerialEngine : public Engine {
  public:
    explicit SerialEngine(const std::string& order) : order_(order) {
        if (order != "forwards" && order != "backwards" && order != "shuffled")
            throw std::invalid_argument("order must be forwards, backwards or shuffled, not " +
                                        order);
    }
    bool has_kernels(Family) const override { return true; }
    void load_kernels(Family, std::string_view) override {}
    void launch(const Launch& launch, const DeviceCall& call, void*) override {
        run_family(order_, launch, call);
    }
    void upload(void* to, const void* from, std::size_t bytes, void*) override {
        std::memcpy(to, from, bytes);
    }
    void download(void* to, const void* from, std::size_t bytes, void*) override {
        std::memcpy(to, from, bytes);
    }

  private:
    std::string order_;
};

}  // namespace

std::shared_ptr<Engine> make_serial_engine(const std::string& order) {
    return std::make_shared<SerialEngine>(order);
}

}  // namespace rowwise
