// The interface to a GPU, or to this processor in its stead: kernels, and copies of memory.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "device/call.hpp"

namespace rowwise {

// A kernel for each of `items` times `lanes`; `lanes` is a power of two. `wide`: 4 numbers of a row
// at once, which begin at multiples of 16 bytes.
struct Launch {
    DeviceKernel kernel;
    Family family;
    bool wide;
    int64_t items;
    int lanes;
};

class Engine {
  public:
    virtual ~Engine() = default;
    // Whether the kernels of a family are there to launch; loads them as they were compiled.
    virtual bool has_kernels(Family family) const = 0;
    virtual void load_kernels(Family family, std::string_view binary) = 0;
    // Runs a kernel after all that the stream was given before. Nothing waits for it.
    virtual void launch(const Launch& launch, const DeviceCall& call, void* stream) = 0;
    // Copy to and from the device's memory, in the stream's order; done when they return.
    virtual void upload(void* to, const void* from, std::size_t bytes, void* stream) = 0;
    virtual void download(void* to, const void* from, std::size_t bytes, void* stream) = 0;
};

// The kernels on this processor, one item after the other, for memory of the host. A GPU has no
// order: order is "forwards", "backwards" or "shuffled". Throws std::invalid_argument for another.
std::shared_ptr<Engine> make_serial_engine(const std::string& order);

// The kernels on a GPU, by its number among those that the process sees. Throws std::runtime_error
// where there is no driver or no such GPU.
std::shared_ptr<Engine> make_cuda_engine(int device);

}  // namespace rowwise
