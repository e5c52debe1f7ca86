"""The bus on RabbitMQ 3.10 and later, over AMQP 0.9.1 with pika."""

from bus.rabbitmq.bus import RabbitBus

__all__ = ["RabbitBus"]
