"""Power while something is measured: who tells it, how it is sampled, what it comes to.

rails.py       which rails make the whole, without counting anything twice
source.py      what every source of readings is and gives
sysfs.py       numbers from files of Linux, and why one cannot be read
monitors.py    INA3221 and INA238 through hwmon (JetPack 5 and later) and iio (JetPack 4)
tegrastats.py  what NVIDIA's tool prints
jtop.py        what the service of jetson-stats says
nvml.py        the driver of GPUs in desktops and servers
choosing.py    the first source that works here, or why none does
sampling.py    the thread that reads it
energy.py      from samples to watts and joules
conditions.py  temperatures, clocks, and what held them down
meter.py       the protocol: idle, then runs
"""
